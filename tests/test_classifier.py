"""Guidance by a trained classifier of noisy states: network, objective, and the commands."""

import random
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from test_guidance import Labelled
from test_labels import LETTERS, write

import ddlm
from diffusion.autoregressive import Autoregressive
from diffusion.genmd4 import GenMD4
from diffusion.linear_flow import LinearFlow
from diffusion.mdlm import MDLM
from diffusion.noisy_classifier import NoisyClassifier
from diffusion.udlm import UDLM
from experiments import cli, progress
from models.classifier import Classifier

MODEL = Classifier(
    5, num_layers=2, width=16, num_heads=2, num_labels=3, time_conditioning=True, condition_width=8,
    dtype="float32",
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    """Parameters with no zeros left."""
    leaves, tree = jax.tree.flatten(MODEL.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    return tree.unflatten(noisy)


def test_a_classifier_gives_each_row_a_distribution_of_its_labels(params):
    z = jnp.array([[0, 1, 5, 2], [4, 4, 0, 5]])
    t = jnp.array([[0.3], [0.6]])
    every = np.stack([MODEL.apply(params, z, t, label=jnp.full(1, n)) for n in range(3)])
    np.testing.assert_allclose(np.exp(every).sum(0), 1, rtol=1e-5)
    assert np.ptp(every, axis=0).min() > 0.01
    own = MODEL.apply(params, z, t, label=jnp.array([2, 0]))
    np.testing.assert_allclose(own, [every[2, 0], every[0, 1]], rtol=1e-5)
    alone = MODEL.apply(params, z[1:], t[1:], label=jnp.full(1, 0))
    np.testing.assert_allclose(alone, every[0, 1:], rtol=1e-5)


def test_tokens_one_hot_states_and_corners_are_classified_alike(params):
    z, t, label = jnp.array([[0, 1, 5, 2]]), jnp.full((1, 1), 0.4), jnp.full(1, 1)
    states = MODEL.apply(params, jax.nn.one_hot(z, 6), t, label=label)
    np.testing.assert_allclose(states, MODEL.apply(params, z, t, label=label), rtol=1e-5)
    clean = z.at[0, 2].set(3)
    vertices = MODEL.apply(params, jax.nn.one_hot(clean, 5), t, label=label)
    np.testing.assert_allclose(vertices, MODEL.apply(params, clean, t, label=label), rtol=1e-5)
    assert abs(float(vertices[0] - states[0])) > 1e-3


@pytest.mark.parametrize("process", [MDLM(3), UDLM(3)], ids=["mdlm", "udlm"])
def test_the_loss_of_the_exact_classifier_is_the_entropy_that_noise_leaves_of_the_label(
    process, x64
):
    """E -log p(label | z_t) by draws, against H(label | z_t) by enumeration of all states, at one t."""
    toy, t, rows = Labelled(), 0.4, 20_000
    log_p_1 = toy.log_p_label(process)
    rng = np.random.default_rng(0)
    index = rng.choice(len(toy.free.p), rows, p=toy.free.p / toy.free.p.sum())
    label = rng.uniform(size=rows) < toy.of[index]

    def model(z, t):
        log_p = log_p_1(z, t)
        return jnp.where(label, log_p, jnp.log(-jnp.expm1(log_p)))

    loss = NoisyClassifier(process).loss(
        jax.random.key(0), model, jnp.asarray(toy.free.states[index]), jnp.full((rows, 1), t)
    )
    assert loss.shape == (rows, 3) and (loss == loss[:, :1]).all()
    every = jnp.asarray(toy.free.all_states(process))
    time = jnp.full((len(every), 1), t)
    log_q = toy.free.log_likelihoods(process, every, time).sum(-1)
    q = jnp.exp(log_q) @ toy.free.p
    p = jnp.exp(log_p_1(every, time))
    entropy = q / q.sum() @ -(p * jnp.log(p) + (1 - p) * jnp.log(1 - p))
    error = np.std(loss[:, 0]) / np.sqrt(rows)
    assert abs(loss[:, 0].mean() - entropy) < 4 * error
    assert error < 0.005 < 0.69 - entropy  # which tells it from the entropy without z_t


@pytest.mark.parametrize("base", [Autoregressive(3), GenMD4(3), LinearFlow(3)])
def test_processes_that_no_classifier_guides_are_rejected(base):
    with pytest.raises(
        ValueError, match=rf"{type(base).__name__}.*choose|{type(base).__name__}.*is"
    ):
        NoisyClassifier(base)


# The commands


def train(config, workdir, *settings):
    sets = [word for s in [*SMALL, *settings] for word in ("--set", s)]
    where = ["--config", f"configs/sotu/{config}.py", "--workdir", str(workdir)]
    return cli.guarded("train", [*where, *sets])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs on text whose letters tell its label, which no run but the classifiers was told."""
    rng = random.Random(0)
    root = tmp_path_factory.mktemp("classifier")
    files = {f"{n}/1.txt": "".join(rng.choices(s, k=20_000)) for s, n in LETTERS.items()}
    text = [f"data.path={write(root / 'text', files)}", "data.length=6"]
    labels = [*text, "data.labels=folder"]
    learn = ["train.batch_size=64", "train.num_steps=150", "optimizer.schedule.peak_lr=1e-2",
             "train.log_every=150", "train.eval_every=150", "train.checkpoint_every=150"]  # fmt: skip
    made = {
        "mdlm": ("mdlm", *text, *learn),
        "classifier": ("classifier", *labels, *learn),
        "bfn": ("bfn", *text, *learn),
        "bfn-classifier": ("classifier", "process.base=BFN", *labels, *learn),
        "labels": ("mdlm_labels", "process.schedule=Linear", *labels),
    }
    for name, (config, *settings) in made.items():
        assert train(config, root / name, *settings) == 0
    return {name: str(root / name) for name in made}


@pytest.fixture
def sample(runs, capsys):
    def run(name, *options, code=0):
        capsys.readouterr()
        options = [runs.get(option, option) for option in options]
        assert cli.guarded("sample", ["--workdir", runs[name], *options]) == code
        out, err = capsys.readouterr()
        if code:
            assert err.startswith("error: ") and err.count("\n") == 1
            return err
        return [line[4:].strip() for line in out.splitlines() if re.match(r"\[\d\] ", line)]

    return run


@pytest.mark.representatives()
@pytest.mark.parametrize(
    "name, options",
    [
        ("mdlm", ["--classifier", "classifier", "--exact", "--guidance", "3"]),
        # A network's gradient at a state tells little of how far a changed token takes it.
        ("mdlm", ["--classifier", "classifier", "--guidance", "60", "--sampler", "FirstHitting"]),
        ("mdlm", ["--classifier", "classifier", "--guidance", "60", "--sampler", "Posterior"]),
        ("bfn", ["--classifier", "bfn-classifier", "--guidance", "3"]),
    ],
)
def test_a_classifier_leads_samples_of_a_run_without_labels_to_one(name, options, sample):
    def share(letters, *options):
        texts = "".join(sample(name, "--num", "8", "--steps", "6", *options)).replace(" ", "")
        return np.mean([c in letters for c in texts])

    for letters, label in LETTERS.items():
        assert share(letters, *options, "--label", label) > 0.9
    if "--exact" in options:
        assert 0.1 < share("ab") < 0.9  # of the run alone


def test_exact_guidance_says_how_far_it_is_within_a_batch_and_changes_nothing_by_it(
    runs, capsys, monkeypatch
):
    options = {"classifier": runs["classifier"], "label": "rome", "steps": 3}
    quiet = ddlm.load(runs["mdlm"]).sample(2, exact=True, **options)
    monkeypatch.setattr(progress, "_OFTEN", -1)
    words = [w for name, value in options.items() for w in (f"--{name}", str(value))]
    line = ["--workdir", runs["mdlm"], "--exact", "--num", "2", *words]
    capsys.readouterr()
    assert cli.guarded("sample", line) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said[:3]] == [f"{n} of 2 samples" for n in (0, 1, 1)]
    assert said[3:5] == [f"[{n}] {text}" for n, text in enumerate(quiet)]


WRONG = [
    ("mdlm", ["--classifier", "classifier"], "name it with --label"),
    ("mdlm", ["--classifier", "classifier", "--label", "paris"], "athens, rome"),
    ("mdlm", ["--classifier", "labels", "--label", "rome"], "holds a MDLM, not a classifier"),
    ("mdlm", ["--classifier", "bfn-classifier", "--label", "rome"], "other noise (BFN)"),
    ("labels", ["--classifier", "classifier", "--label", "rome"], "(schedule: MDLMCosine -> Linear)"),
    ("bfn", ["--classifier", "bfn-classifier", "--label", "rome", "--exact"], "--exact"),
    ("mdlm", ["--label", "rome", "--exact"], "--classifier"),
    ("mdlm", ["--classifier", "nowhere", "--label", "rome"], "nowhere"),
    ("classifier", [], "generates no text"),
    (
        "mdlm",
        ["--classifier", "classifier", "--label", "rome", "--guidance-interval", "0.2", "1",
         "--set", "sampler.cached=True"],
        "cached",
    ),
]  # fmt: skip


@pytest.mark.parametrize("name, options, word", WRONG, ids=lambda v: str(v)[:50])
def test_what_cannot_be_is_one_line(name, options, word, sample):
    assert word in sample(name, *options, "--num", "1", code=2)


@pytest.mark.parametrize(
    "config, settings, word",
    [
        ("classifier", ["data.labels=None"], "data.labels"),
        ("classifier", ["train.label_dropout=0.1"], "label_dropout"),
        ("classifier", ["process=MDLM"], "NoisyClassifier"),
        ("mdlm", ["process=NoisyClassifier"], "Classifier"),
    ],
)
def test_settings_that_make_no_classifier_are_one_line(config, settings, word, tmp_path, capsys):
    assert train(config, tmp_path / "w", *settings) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "w").exists()
