"""Runs that begin from other runs, and what may stand beside them, through the command line."""

import json
import shutil

import jax
import numpy as np
import pytest
from test_methods import train

from experiments import cli
from experiments.run import load_run
from experiments.training.checkpoints import Checkpoints


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the state of the union and the people of these states " * 100)
    return path


@pytest.fixture(scope="module")
def runs(text, tmp_path_factory):
    """A masked model, an autoregressive one and block diffusion, by name."""
    where = tmp_path_factory.mktemp("runs")
    for name in ("mdlm", "autoregressive", "block4"):
        assert train(name, where / name, text) == 0
    return where


def same(a, b):
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, a, b)))


def test_a_run_begins_with_the_parameters_of_another_and_says_so(text, runs, tmp_path, capsys):
    settings = [f"init_from={runs / 'mdlm'}", "optimizer.schedule.peak_lr=0.0"]
    assert train("mdlm", tmp_path / "run", text, *settings) == 0
    assert "arrays loaded from" in capsys.readouterr().out
    ours, theirs = load_run(str(tmp_path / "run"), ema=False), load_run(str(runs / "mdlm"))
    assert same(ours.params, theirs.params)


def test_what_does_not_fit_is_named_and_fresh(text, runs, tmp_path, capsys):
    settings = [f"init_from={runs / 'mdlm'}", "model.mlp_ratio=2.0", "model.mlp_bias=True"]
    assert train("mdlm", tmp_path / "run", text, *settings) == 0
    said = capsys.readouterr().out
    assert f"arrays loaded from {runs / 'mdlm'} (11): ends/embedding, ends/head/bias, " in said
    assert "\nfresh (2): layers/mlp/down/bias, layers/mlp/up/bias\n" in said
    assert "\nof another shape (2): layers/mlp/down/kernel " in said
    assert "layers/mlp/up/kernel (1, 16, 64), not (1, 16, 32)\n" in said


def test_the_base_of_an_energy_is_frozen_and_its_run_no_longer_needed(text, runs, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(runs / "mdlm", base)
    settings = [
        f"init_from={base}",
        "optimizer.schedule.peak_lr=0.01",
        "optimizer.weight_decay=0.1",
    ]
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert train("edlm", straight, text, *settings, "train.num_steps=4") == 0
    assert train("edlm", resumed, text, *settings) == 0
    shutil.rmtree(base)
    assert train("edlm", resumed, text, *settings, "train.num_steps=4") == 0
    digests = [Checkpoints(w / "checkpoints")._record(4)["arrays"] for w in (straight, resumed)]
    assert digests[0] == digests[1]
    ours, theirs = load_run(str(straight), ema=False), load_run(str(runs / "mdlm"))
    energy = ours.params.pop("energy")
    assert same(ours.params, theirs.params)
    kernels = (
        energy["layers"]["mlp"]["up"]["kernel"],
        theirs.params["layers"]["mlp"]["up"]["kernel"],
    )
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3 and np.abs(kernels[0]).max() > 0.1


def test_model_and_process_of_the_base_are_taken_from_its_run(text, runs, tmp_path):
    """The config's own say nothing of what was trained."""
    settings = [f"init_from={runs / 'mdlm'}", "model.num_layers=2", "process.base.schedule=Linear"]
    assert train("edlm", tmp_path / "run", text, *settings) == 0
    ours, theirs = (load_run(str(w)).experiment for w in (tmp_path / "run", runs / "mdlm"))
    assert ours.process.base == theirs.process and ours.model == theirs.model
    assert ours.energy.backbone.num_layers == theirs.model.num_layers


def test_the_energy_begins_as_nothing_so_that_the_run_is_its_base(text, runs, tmp_path):
    settings = [f"init_from={runs / 'mdlm'}", "train.num_steps=0"]
    assert train("edlm", tmp_path / "run", text, *settings) == 0
    assert (
        cli.guarded("evaluate", ["--workdir", str(tmp_path / "run"), "--max-sequences", "4"]) == 0
    )
    record = json.loads((tmp_path / "run/records/validation-0-max_sequences=4.json").read_text())
    assert abs(record["terms_nats_per_token"]["energy"]) < 1e-5


@pytest.mark.parametrize(
    "name, settings, message",
    [
        ("edlm", [], "init_from"),
        ("edlm", ["init_from=nowhere"], "does not exist"),
        ("edlm", ["init_from=RUNS/autoregressive"], "holds process Autoregressive"),
        ("edlm_autoregressive", ["train.num_steps=0", "init_from=RUNS/mdlm"], "energy_from"),
        (
            "edlm_autoregressive",
            ["train.num_steps=0", "init_from=RUNS/mdlm", "energy_from=RUNS/mdlm"],
            "is Autoregressive",
        ),
        ("autoregressive", ["sampler=Ancestral"], "LeftToRight"),
        ("autoregressive", ["model.block_length=2"], "blocks of 1"),
        ("block4", ["evaluation.estimator=any_order"], "any-order"),
        ("mdlm", ["sampler=BlockByBlock"], "BlockByBlock"),
        ("block4", ["sampler.span=3"], "shorter than a block"),
        ("mdlm", ["energy_from=RUNS/autoregressive"], "no energy"),
        ("edlm_autoregressive", ["train.num_steps=3"], "nothing to train"),
    ],
)
def test_impossible_combinations_are_one_line(
    name, settings, message, text, runs, tmp_path, capsys
):
    settings = [s.replace("RUNS", str(runs)) for s in settings]
    assert train(name, tmp_path / "run", text, *settings) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_any_order_records_stand_beside_the_others_and_say_what_they_are(runs):
    arguments = ["--workdir", str(runs / "mdlm"), "--max-sequences", "4"]
    settings = ["evaluation.estimator=any_order", "evaluation.group=2"]
    assert cli.guarded("evaluate", [*arguments, *(w for s in settings for w in ("--set", s))]) == 0
    (path,) = [p for p in (runs / "mdlm" / "records").iterdir() if "any_order" in p.name]
    record = json.loads(path.read_text())
    assert record["estimator"].startswith("random order, 2 tokens") and record["kind"] == "bound"


@pytest.mark.parametrize("name", ["autoregressive", "block4"])
def test_a_token_after_a_blank_is_rejected_where_it_could_not_be_regarded(name, runs, capsys):
    where = ["--workdir", str(runs / name), "--num", "1"]
    assert cli.guarded("sample", [*where, "--template", "th_ ______we"]) == 2
    error = capsys.readouterr().err
    assert "from left to right" in error and error.count("\n") == 1
    inside = "th_ " if name == "block4" else "the"
    assert cli.guarded("sample", [*where, "--template", inside]) == 0


def test_block_diffusion_goes_beyond_the_length_it_was_trained_on(runs, capsys):
    where = ["--workdir", str(runs / "block4"), "--num", "1", "--set", "sampler.span=16"]
    assert cli.guarded("sample", [*where, "--length", "41", "--steps", "2"]) == 0
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("[0]")]
    assert len(line) == 4 + 41


@pytest.mark.representatives()
def test_few_steps_and_gradient_noise_measure_runs(runs, tmp_path, monkeypatch, capsys):
    where = [w for name in ("block4", "autoregressive") for w in ("--workdir", str(runs / name))]
    scorer = ["--scorer", str(runs / "autoregressive"), "--out", str(tmp_path)]
    options = ["--num", "3", "--steps", "1", "2"]
    assert cli.guarded("studies.few_steps", [*where, *scorer, *options]) == 0
    record = json.loads((tmp_path / "few-steps.json").read_text())
    calls = [(row["run"], row["steps"], row["network_calls"]) for row in record["rows"]]
    assert calls == [("block4", 1, 8), ("block4", 2, 12), ("autoregressive", None, 16)]
    assert (tmp_path / "few-steps.png").stat().st_size > 1000
    assert cli.guarded("studies.few_steps", [*where, "--scorer", str(runs / "mdlm")]) == 2
    several = ["--sampler", "FirstHitting group=4", "--sampler", "Ancestral grid=cosine"]
    mdlm = ["--workdir", str(runs / "mdlm"), *scorer, *options, *several]
    assert cli.guarded("studies.few_steps", [*mdlm, "--sampler", "LeftToRight"]) == 0
    rows = json.loads((tmp_path / "few-steps.json").read_text())["rows"]
    found = [(row["sampler"], row["steps"], row["network_calls"]) for row in rows]
    assert found == [(several[1], None, 4), (several[3], 1, 1), (several[3], 2, 2)]
    assert all(0 <= row["real_words"] <= 1 for row in rows)
    assert "LeftToRight does not support it" in capsys.readouterr().out
    assert cli.guarded("studies.few_steps", [*mdlm, "--sampler", "FirstHitting groups=4"]) == 2
    assert "group" in capsys.readouterr().err
    out = tmp_path / "noise.json"
    intervals = ("process.clip=0.0,1.0", "process.clip=0.3,0.8")
    monkeypatch.setattr("experiments.studies.gradient_noise.INTERVALS", intervals)
    study = ["--batches", "2", "--out", str(out), "--workdir"]
    assert cli.guarded("studies.gradient_noise", [*study, str(runs / "block4")]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["setting"] for row in rows] == ["", intervals[1]]  # its own is (0, 1)
    assert all(row["cost"] == pytest.approx(1, rel=0.05) for row in rows)
    tried = [w for words in (
        "train.time_weight=LearnedTimes train.time_weight.uniform=1", "train.time_weight=Complementary",
    ) for w in ("--setting", words)]  # fmt: skip
    assert cli.guarded("studies.gradient_noise", [*study, str(runs / "mdlm"), *tried]) == 0
    own, even, pairs = json.loads(out.read_text())["rows"]
    assert even["noise"] == pytest.approx(own["noise"], rel=0.01)
    assert even["cost"] == pytest.approx(1, rel=0.02)
    assert 1.7 < pairs["cost"] < 2.3
    other = ["--setting", "model.width=64"]
    assert cli.guarded("studies.gradient_noise", [*study, str(runs / "mdlm"), *other]) == 2
    assert "model.width=64: only settings of train" in capsys.readouterr().err
