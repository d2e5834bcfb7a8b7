"""Pairs of prompt and answer: how they are read, and what the commands make of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import GOLDEN, SMALL

import ddlm
from experiments import evaluate
from experiments.data.pipeline import evaluation_batches, training_batches
from experiments.data.subwords import Subwords
from experiments.data.text import Text, prepare
from experiments.data.tokenizers import Bytes, Characters, Letters27
from experiments.errors import UserError
from experiments.evaluation.bound import sequences, spelled
from experiments.overrides import load
from experiments.studies.fuzzing.table_readers import write_wordpiece

SUMS = [(f"{a}+{b}=", str(a + b)) for a in range(20) for b in range(20)]


def write(path, pairs=SUMS):
    lines = (json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in pairs)
    path.write_text("\n".join(lines) + "\n\n")
    return path


def read(path, **settings):
    settings = {"tokenizer": Characters(), "length": 9, "rows": "pair"} | settings
    return prepare(Text(str(path), cache_dir=str(path.parent / "cache"), **settings))


@pytest.mark.parametrize(
    "end, tokenizer", [("|", Characters()), ("", Characters()), ("\n", Bytes())]
)
def test_a_row_is_a_prompt_that_is_known_its_answer_and_the_end(tmp_path, end, tokenizer):
    """Every pair is in one split, once; with an end the row has no padding, else it is not seen."""
    corpus, found = read(write(tmp_path / "sums.jsonl"), end=end, tokenizer=tokenizer), []
    assert set(corpus.tokenizer.symbols or "0123456789+=") == set(
        "0123456789+=" + end * (end == "|")
    )
    for split in ("train", "validation", "test"):
        rows = corpus.sequences(split, 9, "pair")
        tokens, given = rows.batch(np.arange(len(rows)))
        assert set(given) == ({"known"} if end else {"known", "segments"})
        for row, known, size in zip(tokens, given["known"], rows.sizes, strict=True):
            prompt = corpus.tokenizer.decode(row[known])
            assert len(prompt) == known.sum() and prompt.endswith("=")
            answer = corpus.tokenizer.decode(row[~known][:size])
            assert answer.endswith(end)
            found.append((prompt, answer.removesuffix(end)))
            if end:
                assert corpus.tokenizer.decode(row) == (prompt + answer).ljust(9, end)
        if not end:
            sizes = [len(p + a) for p, a in found[-len(rows) :]]
            np.testing.assert_array_equal((given["segments"] > 0).sum(1), sizes)
    assert found == SUMS


def test_counts_are_those_of_the_answers(tmp_path):
    pairs = [(f"say {'word ' * (n % 3)}", "yes we can" if n % 2 else "no") for n in range(60)]
    path = write(tmp_path / "words.jsonl", pairs)
    corpus = read(path, length=32, end="|")
    whole = corpus.whole("all")
    rows = whole.sequences("all", 32, "pair")
    answers = [answer for _, answer in pairs]
    counts = spelled(whole, "all", rows, 32)
    assert counts.characters == sum(map(len, answers)) and counts.words == 30 * 3 + 30
    assert rows.count == counts.characters + len(answers)  # and an end each
    some = rows.chosen(np.array([1, 3, 4]))
    assert spelled(whole, "all", some, 32).characters == len("yes we can") * 2 + len("no")
    assert [len(x) for x in (some.sizes, some.batch(np.arange(3))[0])] == [3, 3]


def test_tokens_of_a_vocabulary_begin_and_end_a_row_and_parts_are_apart(tmp_path):
    write_wordpiece(tmp_path / "vocab.txt")
    pairs = [("the state of", "the union"), ("", "people")] * 20
    subwords = Subwords(str(tmp_path / "vocab.txt"))
    path = write(tmp_path / "words.jsonl", pairs)
    settings = {"tokenizer": subwords, "begin": "[CLS]", "end": "##z", "length": 16}
    corpus = read(path, **settings).whole("all")
    rows = corpus.sequences("all", 16, "pair")
    tokens, given = rows.batch(np.array([0, 1]))
    number = corpus.tokenizer.number
    alone = [next(corpus.tokenizer.encode([text], "")) for text in ("the state of", "the union")]
    first = [number("[CLS]"), *alone[0], *alone[1]]
    np.testing.assert_array_equal(tokens[0], first + [number("##z")] * (16 - len(first)))
    np.testing.assert_array_equal(given["known"].sum(1), [1 + len(alone[0]), 1])


def test_training_takes_the_pairs_in_random_order_and_evaluation_in_their_own(tmp_path):
    rows = read(write(tmp_path / "sums.jsonl"), end="|").sequences("train", 9, "pair")
    (x, given), (again, _) = (next(training_batches(rows, 9, len(rows), 3)) for _ in range(2))
    np.testing.assert_array_equal(x, again)
    every, known = rows.batch(np.arange(len(rows)))
    assert sorted(x.tolist()) == sorted(every.tolist()) and (x != every).any()
    place = [every.tolist().index(row) for row in x.tolist()]
    np.testing.assert_array_equal(given["known"], known["known"][place])
    taken = [row for b, _, n in evaluation_batches(rows, 9, 7) for row in b[:n].tolist()]
    assert taken == every.tolist()


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", r"bad\.jsonl, line 2: is not JSON"),
        ('["a", "b"]', 'line 2: is not {"prompt": "...", "answer": "..."}'),
        ('{"prompt": "a", "answer": 1}', "line 2: is not .* both must be texts"),
        ('{"prompt": "a", "answer": ""}', "line 2: the answer is empty"),
        ('{"prompt": "a", "answer": "b|c"}', r"the answer 'b\|c' of pair 2 holds data\.end"),
        (
            '{"prompt": "a", "answer": "' + 40 * "b" + '"}',
            "1 of 2 pairs .* 9 tokens, the longest 42",
        ),
    ],
)
def test_what_is_no_pair_is_named(tmp_path, line, message):
    path = write(tmp_path / "bad.jsonl", [("q", "a")])
    path.write_text(path.read_text().strip() + f"\n{line}\n")
    with pytest.raises(UserError, match=message):
        read(path, end="|").whole("all").sequences("all", 9, "pair")


def test_an_end_is_one_token_and_pairs_are_a_file(tmp_path):
    path = write(tmp_path / "words.jsonl", [("q", "a")] * 40)
    with pytest.raises(UserError, match=r"data\.end = 'no' is not one token of Letters27"):
        read(path, end="no", tokenizer=Letters27())
    with pytest.raises(ValueError, match=r"Text\.path = None is the embedded corpus; give a file"):
        Text(rows="pair")
    with pytest.raises(UserError, match=r"splits are cut between documents.*data\.rows=pair"):
        read(write(tmp_path / "few.jsonl", [("q", "a")] * 3)).split("validation", 1)
    with pytest.raises(UserError, match="the validation split has no pair of the 3; give more"):
        read(write(tmp_path / "few.jsonl", [("q", "a")] * 3)).sequences("validation", 9, "pair")


# The commands

CONFIG = "configs/sotu/mdlm.py"
OVERRIDES = [*SMALL, "data.rows=pair", "data.end=|", "data.tokenizer=Characters", "data.length=9"]


@pytest.fixture(scope="module", params=["UDLM", "Autoregressive"])
def trained(request, tmp_path_factory):
    """(the folder, the run) of a process, trained for two steps."""
    folder = tmp_path_factory.mktemp(request.param)
    path = write(folder / "sums.jsonl")
    sampler = {"Autoregressive": ["sampler=LeftToRight"]}.get(request.param, ["sampler.steps=4"])
    more = [f"data.path={path}", f"process={request.param}", *sampler]
    experiment = load(CONFIG, OVERRIDES + more)
    experiment = replace(experiment, data=replace(experiment.data, cache_dir=str(folder / "cache")))
    return folder, ddlm.train(experiment, folder / "run", log=lambda line: None)


@pytest.mark.representatives("UDLM")
def test_a_run_of_pairs_has_a_bound_of_answers_by_either_way(trained, capsys):
    """Evaluation, and the likelihood of each pair, whose mean it is; what a prompt says counts."""
    folder, run = trained
    record = run.evaluate("test", num_times=16, log=lambda line: None)
    kind = "exact" if "auto" in repr(run).lower() else "bound"
    assert record["kind"] == kind and record["context"]["protocol"] == "pair"
    assert record["context"]["length_given"] is False and record["context"]["bos_or_eos_counted"]
    corpus = prepare(run.experiment.data)
    rows, _ = sequences(run.experiment, corpus, "test")
    pairs = SUMS[-len(rows) :]
    assert record["tokens"] == sum(len(answer) + 1 for _, answer in pairs)
    each = [run.log_likelihood(answer, 256, context=prompt) for prompt, answer in pairs[:2]]
    assert {value.kind for value in each} == {kind}
    few = ddlm.load(folder / "run", changes=[f"data.path={write(folder / 'few.jsonl', pairs[:2])}"])
    several = few.evaluate(
        "test", num_times=256, text=str(folder / "few.jsonl"), log=lambda _: None
    )
    nats, error = (
        several["nats_per_token"] * several["tokens"],
        several["standard_error_over_times"],
    )
    spread = (
        5 * np.sqrt(sum(v.standard_error**2 for v in each)) + 5 * (error or 0) * several["tokens"]
    )
    assert abs(nats + sum(value.nats for value in each)) < spread + 1e-3
    other = run.log_likelihood(pairs[0][1], 256, context="9+9=")
    assert other.nats != each[0].nats


def test_the_command_says_what_the_number_is_of(trained, capsys):
    folder, _ = trained
    evaluate.main(["--workdir", str(folder / "run"), "--split", "test"])
    printed = capsys.readouterr().out
    assert "on test, of answers given their prompts: " in printed
    assert "nats per answer token" in printed


def test_a_prompt_has_an_answer_up_to_the_end(trained):
    run = trained[1]
    texts = run.sample(6, prompt="3+4=", seed=1)
    end = run.experiment.data.tokenizer.symbols.index("|")
    for text, row in zip(texts, texts.tokens, strict=True):
        assert text.startswith("3+4=") and "|" not in text
        assert text == "3+4=" + texts.answers[texts.index(text)]
        ends = np.flatnonzero(row == end)
        assert len(text) == (ends[0] if len(ends) else 9)
    assert any(len(text) < 9 for text in texts)


def test_an_imported_run_is_fine_tuned_on_pairs_and_answers(tmp_path):
    """LLaDA's network, whose texts are numbers here; `data.end` is the name of one of its tokens."""
    source = GOLDEN / "checkpoints" / "llada"
    base = ddlm.import_checkpoint(source, tmp_path / "base", length=8, log=lambda line: None)
    path = write(tmp_path / "pairs.jsonl", [("1 2", "3"), ("4", "5 6")] * 30)
    changes = [f"data.path={path}", f"data.cache_dir={tmp_path}/cache", "data.rows=pair", "data.end=7",
               f"init_from={base.workdir}", "init_model=run", "data.tokenizer=Letters27"]  # fmt: skip
    tuned = load(CONFIG, [*SMALL, "data.length=8", *changes])
    run = ddlm.train(tuned, tmp_path / "tuned", log=lambda line: None)
    assert type(run.experiment.data.tokenizer) is type(base.experiment.data.tokenizer)
    texts = run.sample(prompts=["1 2", "4"], guidance=2.0, steps=4)
    assert [text.split()[:n] for text, n in zip(texts, (2, 1), strict=True)] == [["1", "2"], ["4"]]
    assert all("7" not in text.split()[n:] for text, n in zip(texts, (2, 1), strict=True))
