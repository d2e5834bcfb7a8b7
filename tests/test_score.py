"""`ddlm score`: what is drawn, kept, continued and compared, of runs with ends and with padding."""

import json

import jax
import numpy as np
import pytest
from conftest import SMALL

import ddlm
from experiments import score as command
from experiments.answers.scoring import Task, ask, draw
from experiments.answers.similarity import SIMILARITIES, character_edits, most_alike
from experiments.errors import UserError
from experiments.overrides import load
from experiments.sampling.request import Request

SUMS = [(f"{a}+{b}=", str(a + b)) for a in range(20) for b in range(20)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    lines = (json.dumps({"prompt": prompt, "answer": answer}) for prompt, answer in SUMS)
    (folder / "sums.jsonl").write_text("\n".join(lines))
    (folder / "sums.txt").write_text(" ".join(prompt + answer for prompt, answer in SUMS))
    return folder


def made(folder, name, config="mdlm", path="sums.jsonl", rows="pair", end="|"):
    settings = [*SMALL, "train.num_steps=0", "data.length=10", f"data.cache_dir={folder}/cache"]
    settings += [f"data.path={folder / path}", "data.tokenizer=Characters", f"data.rows={rows}"]
    settings += [f"data.end={end}"] if end else []
    settings += [] if config == "autoregressive" else ["sampler.steps=4"]
    experiment = load(f"configs/sotu/{config}.py", settings)
    return ddlm.train(experiment, folder / name, log=lambda line: None)


@pytest.fixture(scope="module")
def run(folder):
    return made(folder, "mdlm")


@pytest.fixture(scope="module")
def padded(folder):
    return made(folder, "padded", end="")


def scored(run, *options):
    options = ["--workdir", str(run.workdir), "--num", "6", "--batch-size", "4", *options]
    return command.main(options)


def files(run):
    return {p.name: p.read_bytes() for p in (run.workdir / "scores").iterdir()}


def test_answers_are_kept_continued_and_compared_with_the_references(run, capsys):
    record = scored(run, "--candidates", "3")
    out = capsys.readouterr().out
    assert "random candidate" in out and "chosen" in out and "gain" in out
    (name,) = [name for name in files(run) if name.endswith(".jsonl")]
    path, whole = run.workdir / "scores" / name, files(run)[name]
    lines = [json.loads(line) for line in whole.splitlines()]
    right = dict(SUMS)
    prompts = [line["given"] for line in lines]
    assert len(lines) == 18 and prompts == prompts[:6] * 3
    assert [line["text"] for line in lines] == [x["given"] + x["answer"] for x in lines]
    texts = run.sample(3, prompts=prompts[:6], batch_size=4)
    assert texts.answers == [line["answer"] for line in lines]
    found = np.mean([line["answer"] == right[line["given"]] for line in lines])
    measured = record["measures"]
    assert measured["random candidate"]["exact"]["value"] == found
    wrong = sum(character_edits(line["answer"], right[line["given"]]) for line in lines) / 3
    near, chosen = SIMILARITIES["characters"](), 0
    for number, prompt in enumerate(prompts[:6]):
        answers = [line["answer"] for line in lines[number::6]]
        chosen += character_edits(answers[most_alike(answers, near)], right[prompt])
    rate, size = "character_error_rate", sum(len(right[prompt]) for prompt in prompts[:6])
    assert measured["random candidate"][rate]["value"] == pytest.approx(wrong / size)
    assert measured["chosen"][rate]["value"] == pytest.approx(chosen / size)
    assert measured["gain"][rate]["value"] == pytest.approx((chosen - wrong) / size)
    assert record["prompts"] == 6 and record["network_calls"] == 4
    assert json.loads(files(run)[f"{path.stem}-3.json"]) == json.loads(json.dumps(record))

    path.write_bytes(whole[: whole.index(b"\n", len(whole) // 2) + 20])  # killed within a line
    again = scored(run, "--candidates", "3")
    assert path.read_bytes() == whole and again["measures"] == measured
    path.write_bytes(b"".join(whole.splitlines(True)[:6]))  # of one candidate
    assert scored(run, "--candidates", "3")["measures"] == measured
    assert path.read_bytes() == whole
    one = scored(run)  # of more than are asked for, the first
    assert set(one["measures"]) == {"prompt itself", "random candidate"}
    first = np.mean([line["answer"] == right[line["given"]] for line in lines[:6]])
    assert one["measures"]["random candidate"]["exact"]["value"] == first
    assert path.read_bytes() == whole


def test_other_settings_are_other_files_and_a_line_without_an_answer_is_named(run, rejected):
    before = set(files(run))
    scored(run, "--seed", "7")
    (name,) = [n for n in set(files(run)) - before if n.endswith(".jsonl")]
    path = run.workdir / "scores" / name
    lines = path.read_text().splitlines(True)
    path.write_text(lines[0].replace('"answer"', '"other"') + "".join(lines[1:]))
    said = rejected(scored, run, "--seed", "7")
    assert "other samples" in said
    del (first := json.loads(lines[0]))["answer"]
    path.write_text(json.dumps(first) + "\n" + "".join(lines[1:]))
    assert "line 1 has no answer; replace it with --force" in rejected(scored, run, "--seed", "7")
    scored(run, "--seed", "7", "--force")
    assert path.read_text() == "".join(lines)


def test_a_right_answer_is_right_and_the_length_of_the_reference_is_its_length(run, padded):
    """With ends that are given none is drawn; with padding the row ends there."""
    for model in (run, padded):
        task = Task(num=6, candidates=2, answer_length="reference")
        asked = ask(model._run, str(model.workdir), Request(), task)
        answers, calls = draw(asked, 4, print)
        assert calls == 4 and [right for _, right in SUMS if right in asked.references]
        assert [dict(SUMS)[prompt] for prompt in asked.prompts] == asked.references
        for row, right in zip(answers, asked.references, strict=True):
            assert [len(answer) for answer in row] == [len(right)] * 2
    record = model.score(num=6, candidates=4, answer_length="predicted", beam=2)
    assert record["length_beam"] == 2 and record["similarity"] == "characters"
    assert not (padded.workdir / "scores").exists()


def test_nothing_depends_on_what_stands_in_the_padding(padded):
    from dataclasses import replace

    task = Task(num=6, answer_length=2)
    asked = ask(padded._run, str(padded.workdir), Request(), task)
    # One whose tokens depend on others: at the start it says the same of all.
    moved = jax.tree.map(
        lambda x: jax.random.normal(jax.random.key(x.size), x.shape), padded.params
    )
    asked = replace(
        asked, prepared=replace(asked.prepared, run=replace(asked.prepared.run, params=moved))
    )
    known, padding = asked.questions.known, asked.questions.segments == 0
    found = [
        draw(
            replace(
                asked, questions=replace(asked.questions, known=np.where(padding, token, known))
            ),
            4,
            print,
        )
        for token in (1, 5)
    ]
    assert found[0] == found[1] and found[0] == draw(asked, 4, print)


def test_a_model_from_left_to_right_writes_its_ends(folder):
    model = made(folder, "ar", "autoregressive")
    record = model.score(num=6)
    assert record["measures"]["random candidate"]["exact"]["value"] < 1
    with pytest.raises(UserError, match="writes from left to right"):
        model.score(num=6, answer_length="reference")


@pytest.mark.parametrize(
    "options, message",
    [
        (
            ["--similarity", "near"],
            "--similarity near: expected one of characters, words, exact, bleu",
        ),
        (["--answer-length", "0"], "--answer-length: 0: expected a number or one of end"),
        (["--answer-length", "500"], "--answer-length: 500 tokens are more than data.length"),
        (["--length-beam", "2"], "--length-beam: is of --answer-length predicted"),
        (
            ["--answer-length", "predicted", "--length-beam", "2"],
            "--length-beam: 2 lengths need as many candidates",
        ),
        (["--split", "none"], "split 'none': expected one of train"),
        (["--sampler", "LeftToRight"], "left to right"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_drawn(run, rejected, options, message):
    before = files(run) if (run.workdir / "scores").exists() else {}
    assert message in rejected(scored, run, *options)
    assert before == (files(run) if before else {})


@pytest.mark.parametrize("name", ["num", "candidates", "beam"])
def test_numbers_of_a_task_are_positive(name):
    with pytest.raises(ValueError, match=f"Task.{name} = 0 must be at least 1"):
        Task(**{name: 0})


def test_a_run_without_pairs_has_no_prompts(folder, rejected):
    text = made(folder, "text", path="sums.txt", rows="wrap", end="")
    assert "data.rows = wrap, so it has no prompts" in rejected(scored, text)
