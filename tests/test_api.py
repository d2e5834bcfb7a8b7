"""What a notebook imports: `import ddlm`, on a run that a few steps made."""

import json
import math
import re
from dataclasses import fields
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL

import ddlm
from experiments import curves, evaluate, sample
from experiments.overrides import load, override
from experiments.sampling.request import Request

ROOT = Path(__file__).parent.parent
STEPS = ("train.num_steps=6", "train.eval_every=3", "data.length=32", "evaluation.num_times=2")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    experiment = override(load(str(ROOT / "configs/sotu/mdlm.py")), [*SMALL, *STEPS])
    said, workdir = [], tmp_path_factory.mktemp("api") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(curves, "find_spec", find_spec)
        return ddlm.train(experiment, workdir, said.append), said


@pytest.fixture(scope="module")
def run(trained):
    return trained[0]


def test_train_gives_the_run_and_says_what_it_does(trained):
    run, said = trained
    assert run.step == 6 and isinstance(run.experiment.process, ddlm.MDLM)
    assert any(line.startswith("step 6/6") for line in said)
    assert repr(run).endswith("MDLM at step 6>")


def test_an_experiment_is_made_of_what_the_module_exports(tmp_path):
    text = tmp_path / "my.txt"
    text.write_text("abcab cabba " * 400)
    experiment = ddlm.Experiment(
        ddlm.UDLM(),
        ddlm.Transformer(num_layers=1, width=16, num_heads=2, time_conditioning=True),
        ddlm.Text(str(text), ddlm.Characters(), length=16, cache_dir=str(tmp_path / "cache")),
        ddlm.Ancestral(steps=4),
        ddlm.Muon(ddlm.WarmupCosine(1e-3, 1, 4)),
        ddlm.Train(num_steps=2, batch_size=4, log_every=1),
    )
    run = ddlm.train(experiment, tmp_path / "run", lambda line: None)
    (text,) = run.sample()
    assert len(text) == 16 and set(text) <= set("abc ")


def test_samples_are_those_of_the_command(run, tmp_path, capsys):
    samples = run.sample(3, prompt="the ", steps=4, seed=2)
    assert len(samples) == 3 and all(text.startswith("the ") for text in samples)
    assert samples.tokens.shape == (3, 32) and samples.calls.tolist() == [4, 4, 4]
    out = tmp_path / "s.jsonl"
    sample.main(["--workdir", str(run.workdir), "--num", "3", "--prompt", "the ", "--steps", "4",
                 "--seed", "2", "--out", str(out)])  # fmt: skip
    assert [json.loads(line)["text"] for line in out.read_text().splitlines()] == samples


def test_every_option_of_a_sample_is_one_of_the_command(capsys):
    with pytest.raises(SystemExit):
        sample.main(["--help"])
    options = set(re.findall(r"--([a-z-]+)", capsys.readouterr().out)) | {
        "changes"
    }  # which are --set
    assert {f.name.replace("_", "-") for f in fields(Request)} <= options


def test_sample_number_i_does_not_depend_on_how_many_are_drawn(run):
    assert run.sample(1, steps=4) == run.sample(3, batch_size=2, steps=4)[:1]


def test_fill_gives_the_template_alone_with_its_blanks_filled_in(run):
    text = run.fill("we ____ the", steps=4)
    assert isinstance(text, str) and len(text) == 11 and "_" not in text
    assert text.startswith("we ") and text.endswith(" the")
    two = run.fill("a__", num=2, steps=4)
    assert two.tokens.shape == (2, 3) and all(t[0] == "a" for t in two)
    assert len(run.fill("____", steps=4)) == 4


def test_frames_go_from_masks_to_the_sample(run):
    frames = run.frames("?", prompt="the ", steps=4, seed=2)
    assert len(frames) == 5 and frames[0] == "the " + "?" * 28
    assert frames[-1] == run.sample(1, prompt="the ", steps=4, seed=2)[0]
    for before, after in pairwise(frames):
        assert all(a == b or a == "?" for a, b in zip(before, after, strict=True))
    with pytest.raises(ddlm.UserError, match="keeps no frames"):
        run.frames(sampler="TwistedSMC")


def test_likelihoods_of_pieces_add_up_and_errors_shrink(run):
    text = "the state of the union is what we make of it " * 2
    few, many = run.log_likelihood(text, 16), run.log_likelihood(text, 256)
    assert few.kind == "bound" and few.tokens == few.characters == len(text) == 90
    assert many.standard_error < few.standard_error / 2
    assert abs(few.nats - many.nats) < 4 * few.standard_error
    assert many.bits_per_character == pytest.approx(-many.nats / math.log(2) / 90)
    assert 4 < many.bits_per_character < 5.5  # six steps: about that of uniform letters, 4.75


def test_an_exact_likelihood_has_no_error(tmp_path):
    experiment = override(load(str(ROOT / "configs/sotu/autoregressive.py")), [*SMALL, *STEPS])
    run = ddlm.train(experiment, tmp_path / "run", lambda line: None)
    found = run.log_likelihood("the state")
    assert found.kind == "exact" and found.standard_error == 0
    tokens = np.array([" abcdefghijklmnopqrstuvwxyz".index(c) for c in "the state"])
    before = np.concatenate([[27], tokens[:-1]])[None]
    logits = np.asarray(run.denoise(before, 0.0), np.float64)[0]
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    assert found.nats == pytest.approx(log_p[np.arange(9), tokens].sum(), rel=1e-5)


def test_evaluate_gives_the_record_of_the_command(run, capsys):
    options = ["--workdir", str(run.workdir), "--split", "test", "--max-sequences", "8"]
    record, of_command = run.evaluate("test", max_sequences=8), evaluate.main(options)
    assert record["value"] == of_command["value"] and record["kind"] == "bound"


def test_denoise_gives_logits_of_every_token_at_every_position(run):
    out = run.denoise("the state", 0.5)
    assert out.shape == (1, 9, 27)
    masked = jnp.full((2, 9), 27)
    assert run.denoise(masked, 1.0).shape == (2, 9, 27)
    np.testing.assert_array_equal(
        run.denoise(masked, jnp.ones((2, 1)))[0], run.denoise(masked, 1)[0]
    )


def test_curves_of_the_training(run, tmp_path):
    steps, values = run.metrics()["train/loss_nats_per_token"]
    assert steps.tolist() == [1, 2, 3, 4, 5, 6] and np.isfinite(values).all()
    figure = run.plot(tmp_path / "curves.png", ["train/loss_nats_per_token"])
    assert len(figure.axes) == 1 and (tmp_path / "curves.png").stat().st_size > 1000
    titles = [axes.get_title(loc="left") for axes in run.plot(theme="dark").axes]
    assert len(titles) == 6 and "validation bound (bits per char)" in titles
    with pytest.raises(ddlm.UserError, match=r"path .*the file must end in one of"):
        run.plot(tmp_path / "curves.txt")


def test_the_end_of_a_training_draws_its_curves_and_its_evaluations_say_where_the_nats_are(trained):
    run, said = trained
    assert (run.workdir / "curves.svg").read_text().count('<g id="axes_') == 6
    assert not any("curves" in line for line in said)
    metrics = run.metrics()
    for kind in ("eval_at_times/", "eval_at_positions/"):
        parts = [values for name, (_, values) in metrics.items() if name.startswith(kind)]
        assert len(parts) == 10
        np.testing.assert_allclose(sum(parts), metrics["eval/bound_nats_per_token"][1], rtol=1e-5)


def test_mistakes_are_errors_that_say_what_to_do(run, tmp_path):
    with pytest.raises(ddlm.UserError, match="does not exist; train first"):
        ddlm.load(tmp_path / "none")
    with pytest.raises(ddlm.UserError, match=r"outside the 27 letters.*a run keeps"):
        run.log_likelihood("Ä")
    with pytest.raises(ddlm.UserError, match="--temperature"):
        run.sample(temperature=-1.0)
    with pytest.raises(TypeError, match="tempreature"):
        run.sample(tempreature=1.0)


def test_a_config_file_may_import_the_module_alone(tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "import ddlm\n\n\ndef get_config():\n"
        "    return ddlm.Experiment(ddlm.SEDD(kernel=ddlm.Uniform()), ddlm.Transformer())\n"
    )
    assert isinstance(load(str(config)).process.kernel, ddlm.Uniform)


def test_all_that_is_exported_is_there_and_documented():
    for name in ddlm.__all__:
        assert getattr(ddlm, name).__doc__, name
    parts = {"diffusion": ddlm.Objective, "samplers": ddlm.Sampler, "models": ddlm.Backbone}
    from experiments.overrides import choices

    for kind, cls in zip(
        parts.values(), (ddlm.MDLM, ddlm.Ancestral, ddlm.Transformer), strict=True
    ):
        missing = {c.__name__ for c in choices(kind, cls)} - set(ddlm.__all__)
        assert not missing
