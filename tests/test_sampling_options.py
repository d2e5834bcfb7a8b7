"""`ddlm sample`: every option obeys, and what cannot be is one line with exit code 2."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import SMALL, on_devices

import ddlm
from experiments import cli
from experiments.run import load_run
from experiments.sampling.request import Request, prepare
from experiments.sampling.trace import trace_record
from experiments.sampling.trace_page import page
from experiments.studies.measuring import sampler_error_toy
from samplers.ancestral import Ancestral
from samplers.euler import Euler
from samplers.sampler import Frames, Sampled


def train(config, workdir, *settings):
    sets = [word for s in [*SMALL, "data.length=24", *settings] for word in ("--set", s)]
    assert cli.guarded("train", ["--config", config, "--workdir", str(workdir), *sets]) == 0
    return str(workdir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    return {
        "mdlm": train("configs/sotu/mdlm.py", root / "mdlm"),
        "udlm": train("configs/sotu/udlm.py", root / "udlm"),
        "ar": train("configs/sotu/autoregressive.py", root / "ar"),
        "labels": train(
            "configs/sotu/mdlm_labels.py",
            root / "labels",
            "optimizer.schedule.peak_lr=0.05",
            "train.num_steps=20",
            "train.ema_decay=0.0",
        ),
        "ar-labels": train(
            "configs/sotu/autoregressive.py",
            root / "ar-labels",
            "data.labels=period",
            "model.time_conditioning=True",
            "optimizer.schedule.peak_lr=0.05",
            "train.num_steps=20",
            "train.ema_decay=0.0",
        ),
    }


@pytest.fixture
def sample(runs, capsys):
    def run(name, *options, code=0):
        capsys.readouterr()
        assert cli.guarded("sample", ["--workdir", runs[name], *options]) == code
        out, err = capsys.readouterr()
        if code:
            assert err.startswith("error: ") and err.count("\n") == 1
            return err
        return [line[4:] for line in out.splitlines() if re.match(r"\[\d\] ", line)]

    return run


ON_8 = ["--num", "8", "--seed", "3"]
SAMPLERS = [  # one of each kind of setting; every sampler with known and banned tokens: test_ranking.py
    ["--sampler", "FirstHitting"], ["--sampler", "Unmask amount=EntropyBudget amount.nats=0.2"],
    ["--sampler", "Unmask", "--steps", "4", "--set", "sampler.order=margin"],
    ["--set", "sampler.cached=True", "--steps", "9"],
    ["--sampler", "SlidingWindow", "--length", "60", "--set", "sampler.window=24",
     "--set", "sampler.stride=12", "--steps", "4"],
    ["--sampler", "TwistedSMC", "--steps", "3"], ["--grid", "cosine", "--steps", "4"],
]  # fmt: skip


@pytest.mark.representatives("EntropyBudget", "cached", "SlidingWindow", "TwistedSMC")
@pytest.mark.parametrize("options", SAMPLERS, ids=lambda options: " ".join(options)[:50])
def test_samplers_run_with_given_tokens_and_banned_ones(options, sample):
    long = "--length" in options
    texts = sample("mdlm", *options, "--num", "2", "--ban", "aeiou", "--prompt", "state of ")
    assert len(texts) == 2
    for text in texts:
        assert text.startswith("state of ") and len(text) == (60 if long else 24)
        assert not set(text[9:]) & set("aeiou")


def test_options_shape_the_distribution(sample):
    order = ["--sampler", "Unmask", "--steps", "1"]  # in which nothing else is by chance
    greedy = sample("mdlm", "--num", "3", *order, "--temperature", "0")
    assert len(set(greedy)) == 1
    assert sample("mdlm", "--num", "3", *order, "--top-k", "1", "--seed", "5") == greedy
    spread = sample("mdlm", "--num", "2", "--steps", "24", "--repetition", "9")
    assert min(len(set(text)) for text in spread) >= 20
    assert len(set(sample("ar", "--num", "3", "--temperature", "0"))) == 1
    assert not set("".join(sample("ar", "--num", "2", "--ban", "etaoin"))) & set("etaoin")


def test_options_are_settings_of_the_sampler(sample, monkeypatch):
    """What each setting does to a distribution is in tests/test_temperature.py and test_remasking.py."""
    drawn = []
    monkeypatch.setattr("experiments.sample._draw", lambda prepared, *_: drawn.append(prepared))
    options = ["--top-p", "0.5", "--min-p", "0.9", "--top-k", "5", "--temperature", "0.7"]
    sample(
        "mdlm",
        "--sampler",
        "Ancestral",
        "--steps",
        "3",
        "--eta",
        "0.25",
        "--grid",
        "cosine",
        *options,
    )
    sampler = drawn[0].run.experiment.sampler
    processor = sampler.logits_processor
    assert (processor.top_p, processor.min_p, processor.top_k) == (0.5, 0.9, 5)
    assert processor.temperature == 0.7
    assert (sampler.steps, processor.eta, sampler.grid) == (3, 0.25, "cosine")


def test_what_comes_after_the_prompt_matches_a_pattern(sample, runs):
    options = ["--num", "3", "--prompt", "we ", "--regex", "(the|of) ([a-z]{2} )+.*"]
    texts = sample("mdlm", *options)
    assert all(re.fullmatch("we (the|of) ([a-z]{2} )+.*", text) for text in texts)
    assert ddlm.load(runs["mdlm"]).sample(3, prompt="we ", regex=options[-1]) == texts
    texts = sample("ar", *options)
    assert all(re.fullmatch("we (the|of) ([a-z]{2} )+.*", text) for text in texts)
    assert "ReMDM does not draw" in sample("mdlm", *options, "--sampler", "ReMDM", code=2)


def test_a_prompt_that_the_network_takes_for_noise_is_told(runs, capsys):
    notes = {}
    for name, options in {
        "mdlm": {"prompt": "we"},
        "ar": {"prompt": "we"},
        "udlm": {"prompt": "we"},
        "udlm ": {"template": "_we", "sampler": "TwistedSMC"},
        "udlm  ": {},
    }.items():
        workdir = runs[name.strip()]
        prepare(load_run(workdir), Request(**options), workdir)
        notes[name] = capsys.readouterr().err
    assert notes.pop("udlm").startswith("note: UDLM takes known text for noisy text")
    assert set(notes.values()) == {""}


def test_required_text_stands_in_every_sample(sample):
    for text in sample("mdlm", "--num", "6", "--steps", "3", "--require", "qqz", "--require", "xx"):
        assert "qqz" in text and "xx" in text.replace("qqz", "", 1)


def test_samples_have_their_true_number_of_calls(sample, tmp_path):
    out = tmp_path / "samples.jsonl"
    sample("mdlm", "--num", "2", "--sampler", "FirstHitting", "--require", "qq", "--out", str(out))
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["network_calls"] for line in lines] == [22 + 1] * 2


def test_label_and_guidance_change_the_samples(sample):
    plain = sample("labels", "--num", "2", "--steps", "4")
    one = sample("labels", "--num", "2", "--steps", "4", "--label", "first-quarter")
    assert plain != one
    guided = sample(
        "labels", "--num", "2", "--label", "first-quarter", "--guidance", "40", "--steps", "4"
    )
    assert guided != one
    steps = ["--sampler", "Posterior", "--label", "first-quarter", "--steps", "4"]
    assert sample("labels", "--num", "2", *steps, "--guidance", "40") != sample(
        "labels", "--num", "2", *steps
    )
    never = ["--guidance", "40", "--guidance-interval", "0", "0.0001"]
    assert sample("labels", "--num", "2", "--label", "first-quarter", "--steps", "4", *never) == one


def test_labels_and_guidance_go_with_every_kind_of_sampler(sample):
    first, fourth = (["--num", "2", "--label", f"{name}-quarter"] for name in ("first", "fourth"))
    for run, sampler in (
        ("ar-labels", []),
        ("labels", ["--sampler", "TwistedSMC", "--steps", "3"]),
    ):
        other = sample(run, *fourth, *sampler)
        assert sample(run, *first, *sampler) != other
        assert sample(run, *fourth, *sampler, "--guidance", "40") != other


def test_a_token_keeps_in_the_trace_the_probability_it_came_with(runs):
    experiment = load_run(runs["mdlm"]).experiment
    mask, nan = 27, np.nan
    frames = Frames(
        np.array([1.0, 0.5, 0.0]),
        np.array([[mask, mask], [5, mask], [5, 7]]),
        np.array([[nan, nan], [0.25, nan], [1.0, 0.5]]),
    )
    sampled = Sampled(np.array([5, 7]), np.array(2), frames)
    (played,) = trace_record(experiment, "run", [(0, sampled, np.array([-1, -1]))])["samples"]
    np.testing.assert_array_equal(played["probability"][1:], [[0.25, nan], [0.25, 0.5]])
    assert played["calls"] == 2 and page(
        trace_record(experiment, "run", [(0, sampled, np.array([-1, -1]))])
    )


def test_overhead_of_samplers_is_measured(tmp_path):
    out = tmp_path / "overhead.json"
    small = [
        w for s in ("model.num_layers=1", "model.width=12", "data.length=8") for w in ("--set", s)
    ]
    options = [
        "--vocab",
        "5",
        "--batch-size",
        "2",
        "--rounds",
        "1",
        "--out",
        str(out),
        *small,
    ]
    assert cli.guarded("studies.sampler_overhead", options) == 0
    seconds = json.loads(out.read_text())["seconds"]
    assert set(seconds) == {"5"} and all(v > 0 for v in seconds["5"].values())


@pytest.mark.parametrize("options", [[], ["--sampler", "FirstHitting"]])
def test_trace_is_a_page_that_ends_with_the_samples(options, sample, tmp_path):
    path = tmp_path / "trace.html"
    texts = sample("mdlm", *options, "--num", "2", "--prompt", "we ", "--trace", str(path))
    page = path.read_text()
    assert "<html" in page and "MDLM" in page and "http" not in page.replace("http-equiv", "")
    assert sample("mdlm", *options, "--num", "2", "--prompt", "we ") == texts


WRONG = [
    ("mdlm", ["--sampler", "Tweedie"], "no score"),
    ("mdlm", ["--sampler", "Nonsense"], "FirstHitting"),
    ("udlm", ["--sampler", "FirstHitting"], "does not support process UDLM"),
    ("udlm", ["--set", "sampler.cached=True"], "time_conditioning"),
    ("ar", ["--sampler", "Ancestral"], "LeftToRight"),
    ("mdlm", ["--top-p", "1.5"], "top_p"),
    ("mdlm", ["--temperature", "-1"], "temperature"),
    ("mdlm", ["--temperature", "nan"], "temperature"),
    ("mdlm", ["--repetition", "nan"], "repetition"),
    ("labels", ["--label", "first-quarter", "--guidance", "nan"], "finite"),
    ("mdlm", ["--ban", "abcdefghijklmnopqrstuvwxyz "], "nothing is left"),
    ("mdlm", ["--ban", "é"], "--ban"),
    ("mdlm", ["--require", "a" * 30], "30 tokens may not fit into 24 blanks"),
    ("mdlm", ["--prompt", "The"], "keeps the alphabet"),
    ("mdlm", ["--sampler", "Unmask amount=EntropyBudget", "--steps", "4"], "amount EntropyBudget"),
    ("mdlm", ["--sampler", "FirstHitting grup=4"], "sampler.group"),
    ("ar", ["--require", "aa"], "left to right"),
    (
        "ar-labels",
        ["--label", "first-quarter", "--guidance", "2", "--guidance-interval", "0.2", "1"],
        "no times",
    ),
    ("mdlm", ["--sampler", "FirstHitting", "--grid", "cosine"], "no setting grid"),
    ("mdlm", ["--grid", "fitted"], "fit_grid"),
    ("mdlm", ["--label", "first-quarter"], "without labels"),
    ("labels", ["--label", "nobody"], "first-quarter"),
    ("labels", ["--guidance", "2"], "--label"),
    ("labels", ["--label", "first-quarter", "--guidance", "nan"], "--guidance nan: must be finite"),
    ("labels", ["--temperature", "inf"], "--temperature inf: must be finite"),
    (
        "labels",
        ["--label", "first-quarter", "--guidance", "2", "--guidance-interval", "1", "0"],
        "rise",
    ),
    (
        "labels",
        ["--sampler", "Posterior", "--label", "first-quarter", "--guidance", "2", "--top-k", "3"],
        "leave out",
    ),
    ("mdlm", ["--sampler", "TwistedSMC", "--trace", "x.html"], "keeps no frames"),
]


@pytest.mark.parametrize("name, options, word", WRONG, ids=lambda v: str(v)[:40])
def test_what_cannot_be_is_one_line(name, options, word, sample):
    assert word in sample(name, *options, "--num", "1", code=2)


def test_required_text_is_placed_alike_whatever_the_batch(sample):
    few = sample("mdlm", "--num", "3", "--steps", "2", "--require", "qq")
    many = sample("mdlm", "--num", "3", "--steps", "2", "--require", "qq", "--batch-size", "1")
    assert few == many and np.unique([text.find("qq") for text in few]).size > 1


def test_samples_are_the_same_on_8_devices(runs, sample):
    options = ["--sampler", "FirstHitting"]  # whose loop ends where the rows of all devices have
    code = "import sys; from experiments import cli; sys.exit(cli.guarded('sample', sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "--workdir", runs["mdlm"], *ON_8, *options],
        env=on_devices(8),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    texts = [line[4:] for line in done.stdout.splitlines() if line.startswith("[")]
    assert texts == sample("mdlm", *ON_8, *options) and len(texts) == 8


def test_the_error_of_samplers_is_measured_on_a_toy(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        sampler_error_toy,
        "samplers",
        lambda steps, length: {"Ancestral": Ancestral(steps), "Euler": Euler(steps)},
    )
    options = ["--length", "3", "--samples", "20000", "--steps", "1", "2", "8"]
    assert cli.guarded("studies.sampler_error", [*options, "--out", str(tmp_path)]) == 0
    record = json.loads((tmp_path / "sampler-error.json").read_text())
    distance = {
        name: [row["distance"] for row in rows] for name, rows in record["samplers"].items()
    }
    assert distance["Ancestral"][0] > distance["Ancestral"][1] > distance["Ancestral"][2]
    assert distance["Euler"][2] > record["noise_floor"]
    assert (tmp_path / "sampler-error.png").stat().st_size > 1000
    assert "noise of counting" in capsys.readouterr().out
