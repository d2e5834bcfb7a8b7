"""The record of `experiments.score` as a table: a line for each set of answers, a column a measure."""

_COLUMNS = (
    ("exact", "exact", 100),
    ("character_error_rate", "characters wrong", 100),
    ("word_error_rate", "words wrong", 100),
    ("bleu", "BLEU", 1),
    ("chrf", "chrF", 1),
)


ERRORS = "characters and words wrong: edits by the length of the reference, so they may exceed 100"
GAIN = "random candidate: the mean over all; gain: chosen less random, below 0 where errors become fewer"
WITHOUT = 'BLEU and chrF: pip install -e ".[bleu]"'


def table(record: dict) -> str:
    """The table, in percent, and below it what it depends on."""
    rows = record["measures"]
    several = record["candidates"] > 1
    columns = [column for column in _COLUMNS if column[0] in rows["random candidate"]]
    lines = [f"{'percent':<18}" + "".join(f"{title:>18}" for _, title, _ in columns)]
    for name, found in rows.items():
        cells = (_cell(found[key], scale) for key, _, scale in columns)
        shown = name if several or name != "random candidate" else "answer"
        lines.append(f"{shown:<18}" + "".join(f"{cell:>18}" for cell in cells))
    sampler = record["sampler"]
    steps = f" of {sampler['steps']} steps" if "steps" in sampler else ""
    chosen = f", chosen by {record['similarity']}" if record["similarity"] else ""
    notes = [ERRORS] + [GAIN] * several + [WITHOUT] * (len(columns) < len(_COLUMNS))
    return "\n".join(
        [
            *lines,
            f"{record['prompts']:,} prompts of {record['split']}, {record['source']}; answers to each: "
            f"{record['candidates']}{chosen}; answer length: {record['answer_length']}",
            f"{record['process']}, {sampler['_type'].rpartition('.')[2]}{steps}, "
            f"{record['network_calls']:.4g} calls an answer, seed {record['seed']}, checkpoint "
            f"{record['checkpoint_step']}",
            *notes,
        ]
    )


def _cell(found: dict, scale: float) -> str:
    error = found["standard_error"]
    spread = "" if error is None else f" +- {scale * error:.2f}"
    return f"{scale * found['value']:.2f}{spread}"
