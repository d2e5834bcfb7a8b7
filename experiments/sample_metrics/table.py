"""The record of `experiments.quality` as a table: a line for each measure, a column for each text."""

from experiments.serialization import encode
from samplers.logits_processor import LogitsProcessor

LINES = (
    ("number of texts", "{num:,}"),
    ("characters", "{characters:,}"),
    ("network evaluations a sample", "{network_calls:.4g}"),
    (
        "scorer, bits per character",
        "{scorer_bits_per_character:.3f}{scorer_bits_per_character_standard_error}",
    ),
    (
        "scorer, perplexity per token",
        "{scorer_perplexity_per_token:.3f}{scorer_perplexity_per_token_standard_error}",
    ),
    ("entropy of a character, bits", "{entropy_1gram_bits:.3f}"),
    ("   of 2 characters", "{entropy_2gram_bits:.3f}"),
    ("   of 3 characters", "{entropy_3gram_bits:.3f}"),
    ("   of a character, within a text", "{entropy_within_text_bits:.3f}"),
    ("distinct words", "{distinct_1:.3f}"),
    ("   2-grams of words", "{distinct_2:.3f}"),
    ("   3-grams of words", "{distinct_3:.3f}"),
    ("words that training text has", "{words_in_training_text:.3f}"),
    ("   {ngram}-grams of words", "{ngrams_in_training_text:.3f}"),
    ("longest match there, characters", "{longest_match_characters}"),
    ("   mean over texts", "{mean_longest_match_characters:.1f}"),
    ("MAUVE", "{mauve:.3f}"),
)


def table(record: dict) -> str:
    """The table, and below it what it depends on."""
    rows = {
        name: {"num": record["num"]}
        | {key: _error(value) if key.endswith("error") else value for key, value in row.items()}
        for name, row in record["rows"].items()
    }
    lines = [("", list(rows))]
    for name, form in LINES:
        cells = [_cell(form, row) for row in rows.values()]
        if any(cells):
            lines.append((name.format(**record), cells))
    width = max(18, 2 + max(len(cell) for _, cells in lines for cell in cells))
    scorer, training, reference = (record[k] for k in ("scorer", "training_text", "reference"))
    return "\n".join(
        [
            *(f"{name:34}" + "".join(f"{c:>{width}}" for c in cells) for name, cells in lines),
            f"samples: {_known(record['process'])}, {_sampler(record)}, seed {_known(record['seed'])}, "
            f"{_known(record['precision'])}, checkpoint {_known(record['checkpoint_step'])}",
            f"scorer: {scorer['scorer']} ({scorer['kind']}); no context before a text, pieces of "
            f"{scorer['room']} tokens, first token {scorer['first_token']}",
            f"real text: {reference['split']} split of {reference['source']}; training text: "
            f"{training['source']}, {training['split']}, {training['characters']:,} characters",
        ]
    )


def _cell(form: str, row: dict) -> str:
    """The formatted measure, or "" where the row does not have it."""
    try:
        return form.format(**row)
    except (KeyError, TypeError):
        return ""


def _error(value: float | None) -> str:
    return "" if value is None else f" +- {value:.3f}"


def _known(value) -> str:
    return "unknown" if value is None else str(value)


def _sampler(record: dict) -> str:
    """The name of the sampler, its steps, and what was done to the distributions, where the samples say
    it."""
    sampler = record["sampler"]
    if not isinstance(sampler, dict) or "_type" not in sampler:
        return "sampler unknown" if sampler is None else "several samplers"
    name, steps = str(sampler["_type"]).rpartition(".")[2], sampler.get("steps")
    parts = [name if steps is None else f"{name} of {steps} steps"]
    usual, logits_processor = encode(LogitsProcessor()), sampler.get("logits_processor")
    if isinstance(logits_processor, dict):
        parts += [
            f"{k} {v}" for k, v in logits_processor.items() if k not in usual or v != usual[k]
        ]
    return ", ".join(parts)
