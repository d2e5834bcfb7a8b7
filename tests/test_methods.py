"""Each kind of process through the commands, by its config of the embedded corpus: train, evaluate,
sample, on a small text."""

import json
import random
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL

from diffusion.dirichlet import DirichletFlow
from diffusion.one_step import OneStep
from experiments import cli
from experiments.run import load_run
from experiments.training.checkpoints import Checkpoints
from samplers.ode import ODE

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(
    p.stem
    for p in (ROOT / "configs" / "sotu").glob("*.py")
    # Classifiers write no text: tests/test_classifier.py, and tests/test_dglm.py with what they guide.
    if p.stem not in ("__init__", "classifier", "dglm", "dglm_classifier")
)
# The same code by other settings; tests/test_layout.py builds them.
ALIKE = (
    "mdlm", "md4", "radd", "dcd", "sedd_uniform", "d3pm_absorbing_vb", "d3pm_uniform_hybrid",
    "d3pm_gaussian", "d3pm_absorbing", "soft_targets", "udlm",
)  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    words = [
        "the",
        "state",
        "of",
        "union",
        "and",
        "we",
        "people",
        "question",
        "jazz",
        "fix",
        "kept",
    ]
    path.write_text(" ".join(random.Random(0).choices(words, k=1500)))
    return path


@pytest.fixture(scope="module")
def initial(text, tmp_path_factory):
    """The runs that a residual energy begins with, as settings."""
    base, ar = (tmp_path_factory.mktemp("initial") / name for name in ("base", "ar"))
    assert train("mdlm", base, text) == 0 and train("autoregressive", ar, text) == 0
    return [f"init_from={base}", f"energy_from={ar}"]


NO_BOUND = ("linear_flow", "dirichlet_one_step")


@pytest.fixture(scope="module")
def teacher(text, tmp_path_factory):
    """A run of the method that `dirichlet_one_step` learns from."""
    workdir = tmp_path_factory.mktemp("teacher") / "dirichlet"
    assert train("dirichlet", workdir, text) == 0
    return workdir


def train(name, workdir, text, *settings):
    small = [*SMALL, "data.length=16", "evaluation.num_times=2", f"data.path={text}"]
    sets = [word for s in [*small, *settings] for word in ("--set", s)]
    config = str(ROOT / "configs" / "sotu" / f"{name}.py")
    return cli.guarded("train", ["--config", config, "--workdir", str(workdir), *sets])


@pytest.mark.representatives(
    "autoregressive",
    "bfn",
    "block4",
    "dirichlet",
    "edlm",
    "flm",
    "eso_lm",
    "mdlm_labels",
    "plaid",
    "quickstart",
    "sdtt",
)
@pytest.mark.parametrize("name", [name for name in CONFIGS if name not in ALIKE])
def test_method_trains_evaluates_and_samples_from_the_command_line(
    name, text, tmp_path, teacher, initial, capsys
):
    workdir = tmp_path / name
    settings = {
        "dirichlet_one_step": [f"teacher.workdir={teacher}"],
        "sdtt": [initial[0].replace("init_from", "teacher.workdir")],
        "edlm": initial[:1],
        "difformer": [
            "process.embedding.width=4"
        ],  # small noise costs an untrained network as much
        "flex_mdm": ["data.rows=wrap"],
        "mdlm_labels": ["data.labels=None"],  # those of tests/test_labels.py
        "edlm_autoregressive": [*initial, "train.num_steps=0"],
    }.get(name, [])
    assert train(name, workdir, text, *settings) == 0, capsys.readouterr().err
    where = ["--workdir", str(workdir)]
    evaluate = ["--split", "test"]
    evaluate += ["--max-sequences", "8"] if name == "dirichlet" else []  # whose bound is costly
    if name in NO_BOUND:
        assert cli.guarded("evaluate", [*where, *evaluate]) == 2
        assert "no likelihood bound" in capsys.readouterr().err
    else:
        assert cli.guarded("evaluate", [*where, *evaluate]) == 0
        step = 0 if name == "edlm_autoregressive" else 2
        (path,) = (workdir / "records").glob(f"test-{step}*.json")
        record = json.loads(path.read_text())
        exact = name == "autoregressive"
        assert record["kind"] == ("exact" if exact else "bound") and 3 < record["value"] < 30
        assert record["num_times"] == (1 if exact else 2)
        assert record["sequences"] == (8 if name == "dirichlet" else record["sequences_in_split"])
        settings = record["process_settings"]
        assert settings.get("base", settings)["vocab_size"] == 27
        terms = record["terms_nats_per_token"]
        known = {
            "diffusion",
            "prior",
            "reconstruction",
            "energy",
            "likelihood",
            "any order",
            "left to right",
        }
        assert set(terms) <= known
        assert min(value for term, value in terms.items() if term != "energy") >= 0
    steps = "3"
    if name == "dirichlet_one_step":
        assert cli.guarded("sample", [*where, "--steps", "3"]) == 2
        assert "at most 1" in capsys.readouterr().err
        steps = "1"
    with_steps = ["--steps", steps]
    if name == "autoregressive":
        assert cli.guarded("sample", [*where, *with_steps]) == 2
        assert "sampler LeftToRight has no setting steps" in capsys.readouterr().err
        with_steps = []
    assert cli.guarded("sample", [*where, "--num", "2", *with_steps, "--prompt", "we "]) == 0
    samples = [x for x in capsys.readouterr().out.splitlines() if x.startswith("[")]
    assert len(samples) == 2 and all(x[4:].startswith("we ") for x in samples)
    assert name == "flex_mdm" or all(len(x) == 20 for x in samples)  # texts of any length


def test_a_learned_schedule_is_trained_saved_averaged_and_resumed(text, tmp_path):
    straight, resumed = tmp_path / "straight", tmp_path / "resumed"
    assert train("genmd4", straight, text, "train.num_steps=4") == 0
    assert train("genmd4", resumed, text) == 0
    assert train("genmd4", resumed, text, "train.num_steps=4") == 0
    digests = [Checkpoints(w / "checkpoints")._record(4)["arrays"] for w in (straight, resumed)]
    assert digests[0] == digests[1] and any("theta" in name for name in digests[0])
    run = load_run(str(straight), ema=False)
    learned = run.experiment.bind(run.params).power
    assert (
        np.abs(learned - 1).max() > 1e-4 and np.abs(run.experiment.process.power - 1).max() < 1e-6
    )


def test_the_published_spindle_is_reported_as_an_estimate(text, tmp_path):
    workdir = tmp_path / "published"
    settings = ["process.num_steps=8", "process.posterior=published"]
    assert train("spindle", workdir, text, *settings) == 0
    assert cli.guarded("evaluate", ["--workdir", str(workdir), "--split", "test"]) == 0
    record = json.loads((workdir / "records" / "test-2.json").read_text())
    assert record["kind"] == "estimate"


def test_one_step_learns_the_end_of_its_teachers_trajectories():
    """A student that knows where the teacher's ODE ends has next to no loss, and another has much."""
    flow, ode = DirichletFlow(5), ODE(steps=60, end=1e-3)
    teacher = flow.log_likelihood  # the exact denoiser of uniform tokens
    x0, u = jnp.zeros((64, 8), int), jnp.full((64, 1), 0.5)

    def student(z, t):
        return 5 * jax.nn.one_hot(
            ode.sample(jax.random.key(5), flow, teacher, z.shape[:2], start=z), 5
        )

    taught = OneStep(flow, ode.steps, ode.end).taught_by(teacher)
    losses = [
        taught.loss(jax.random.key(0), m, x0, u).mean() for m in (student, lambda z, t: z * 0)
    ]
    assert losses[0] < 0.15 and abs(losses[1] - np.log(5)) < 1e-5


@pytest.mark.parametrize(
    "settings, message",
    [
        ([], "teacher.workdir"),
        (["teacher.workdir=nowhere"], "does not exist"),
        (["teacher.workdir=TEACHER", "model.width=32"], "another model"),
        (
            ["teacher.workdir=TEACHER", "process.base.scale=3", "data.tokenizer=Bytes"],
            "alphabet",
        ),
    ],
)
def test_impossible_teachers_are_rejected(settings, message, text, teacher, tmp_path, capsys):
    settings = [s.replace("TEACHER", str(teacher)) for s in settings]
    assert train("dirichlet_one_step", tmp_path / "run", text, *settings) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_teacher_of_another_process_is_rejected(text, teacher, tmp_path, capsys):
    assert train("sdtt", tmp_path / "run", text, f"teacher.workdir={teacher}") == 2
    error = capsys.readouterr().err
    assert error.endswith("dirichlet holds a DirichletFlow, but SDTT learns from MDLM\n")


def test_student_begins_with_the_teachers_parameters(text, teacher, tmp_path):
    workdir = tmp_path / "student"
    frozen = ["optimizer.schedule.peak_lr=0.0", f"teacher.workdir={teacher}"]
    assert train("dirichlet_one_step", workdir, text, *frozen) == 0
    student, taught = load_run(str(workdir), ema=False), load_run(str(teacher))
    same = jax.tree.map(np.array_equal, student.params, taught.params)
    assert all(jax.tree.leaves(same))


def test_records_under_other_settings_lie_beside_each_other_and_say_so(text, tmp_path):
    """Whether they are given by --set or by an option: a quick one never replaces a whole one."""
    assert train("bfn", tmp_path, text) == 0
    arguments = ["--workdir", str(tmp_path), "--max-sequences", "2", "--num-times", "1"]
    assert cli.guarded("evaluate", arguments) == 0
    assert cli.guarded("evaluate", [*arguments, "--set", "process.num_steps=3"]) == 0
    assert cli.guarded("evaluate", [*arguments, "--seed", "1", "--raw"]) == 0
    names = {
        f"validation-2{change}-evaluation.num_times=1-max_sequences=2{end}.json"
        for change, end in (("", ""), ("-process.num_steps=3", ""), ("", "-seed=1-raw"))
    }
    paths = sorted((tmp_path / "records").iterdir(), key=lambda path: len(path.name))
    assert {path.name for path in paths} == names
    found = [json.loads(path.read_text()) for path in paths]
    found = [found[0], found[2]]
    assert [record["process_settings"]["num_steps"] for record in found] == [None, 3]
    assert found[0]["value"] != found[1]["value"]
