"""The loss in intervals of time: closed forms on toys, the sum against the bound, the stored file."""

import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, complete

from diffusion.ar_diffusion import ARDiffusion
from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN, PowerAccuracy
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.difformer import Difformer
from diffusion.dirichlet import DirichletFlow
from diffusion.edlm import EDLM
from diffusion.embedding_flow import FLM, LangFlow
from diffusion.genmd4 import GenMD4
from diffusion.gidd import GIDD
from diffusion.kernels import Uniform
from diffusion.linear_flow import LinearFlow
from diffusion.mdlm import MDLM
from diffusion.one_step import OneStep
from diffusion.plaid import Plaid
from diffusion.schedules import Cosine, Geometric, Linear, Polynomial
from diffusion.sedd import SEDD
from diffusion.spindle import Spindle
from diffusion.udlm import UDLM
from experiments import cli
from experiments.errors import UserError
from experiments.run import load_run
from experiments.sampling.grid import FILE, fitted_information, information
from samplers.ancestral import Ancestral

SMOKE = str(Path(__file__).parent.parent / "configs" / "smoke.py")
ROWS = 20_000


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


def measured(toy, process, bins, rows=ROWS):
    """(mean, standard error) of nats per sequence in each interval, from the exact denoiser."""
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(toy.states[rng.choice(len(toy.p), rows, p=toy.p)])
    place = jnp.asarray((rng.permutation(rows) + rng.random(rows)) / rows, jnp.float32)[:, None]
    keys = jax.random.split(jax.random.key(0), rows)
    model = toy.denoiser(process)
    run = jax.jit(lambda: information(process, model, keys, x0, place, bins))
    values = np.asarray(run(), float) * toy.length
    assert np.isfinite(values).all()
    return values.mean(1), values.std(1) / np.sqrt(rows), values.mean(0)


def entropies(toy):
    """{(i, revealed): H(x_i | x_revealed)} by enumeration."""
    found = {}
    for i in range(toy.length):
        others = [j for j in range(toy.length) if j != i]
        for size in range(toy.length):
            for known in itertools.combinations(others, size):
                joint, part = {}, {}
                for x, p in zip(toy.states, toy.p, strict=True):
                    there = tuple(x[list(known)])
                    joint[there, x[i]] = joint.get((there, x[i]), 0) + p
                    part[there] = part.get(there, 0) + p
                found[i, known] = -sum(p * np.log(p / part[k[0]]) for k, p in joint.items() if p)
    return found


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_a_masked_process_is_charged_the_rate_of_its_reveals(toy, schedule):
    """At t with masked share m(t): m'(t) sum over i, R of m^(L - 1 - |R|) (1 - m)^|R| H(x_i | x_R)."""
    bins, fine = 8, 400
    mean, error, _ = measured(toy, MDLM(toy.vocab_size, schedule), bins)
    t = (np.arange(bins * fine) + 0.5) / (bins * fine)
    masked = t if isinstance(schedule, Linear) else np.sin(np.pi / 2 * t)
    slope = np.ones_like(t) if isinstance(schedule, Linear) else np.pi / 2 * np.cos(np.pi / 2 * t)
    rate = sum(
        slope * masked ** (toy.length - 1 - len(known)) * (1 - masked) ** len(known) * h
        for (_, known), h in entropies(toy).items()
    )
    expected = rate.reshape(bins, fine).mean(1)
    assert (np.abs(mean - expected) < 4 * error + 1e-4).all()
    assert (error < 0.1 * expected).all() and expected.max() > 1.1 * expected.min()


@pytest.mark.representatives("SEDD1", "MDLM")
@pytest.mark.parametrize(
    "process",
    [
        MDLM(3, Polynomial(2.0)),
        SEDD(3, schedule=Linear()),
        UDLM(3),
        GenMD4(3, initial_power=2.0),
        SEDD(3, Uniform(), Geometric(1e-3, 8.0)),
        D3PM(3, num_steps=20),
    ],
    ids=lambda p: type(p).__name__,
)
def test_intervals_sum_to_the_bound(toy, process):
    """Which of the exact denoiser is the entropy, where the ends cost nothing."""
    mean, _, totals = measured(toy, process, 10)
    entropy = -(toy.p * np.log(toy.p)).sum()
    error = totals.std() / np.sqrt(len(totals))
    # What the ends of a schedule cost, and what is lost in D3PM's 20 steps, is no part of it.
    slack = 0.03 if isinstance(process, D3PM) else 0.01 if isinstance(process, SEDD) else 0
    assert abs(totals.mean() - entropy) < 4 * error + slack * entropy and error < 0.02 * entropy
    assert (mean >= 0).all()


def test_a_flow_is_given_the_fall_of_its_cross_entropy():
    """One token of three: H(x | z_t) by quadrature over many draws of the Dirichlet distribution of
    z_t."""
    p, bins = np.array([0.6, 0.3, 0.1]), 5
    toy = Toy(p, 3, 1)
    process, rng = DirichletFlow(3), np.random.default_rng(1)
    mean, error, _ = measured(toy, process, bins)

    def cross_entropy(t):
        conc, total = 1 - 2 * np.log(t), 0
        for x in range(3):
            z = rng.dirichlet(np.where(np.arange(3) == x, conc, 1), 200_000)
            joint = np.log(p) + (conc - 1) * np.log(z)
            total += p[x] * (np.log(np.exp(joint).sum(1)) - joint[:, x]).mean()
        return total

    falls = np.diff([cross_entropy(max(t, 1e-6)) for t in np.arange(bins + 1) / bins]) * bins
    assert (np.abs(mean - falls) < 4 * error + 0.03).all()
    assert falls[0] > 3 * falls[-1] > 0  # the loss itself is largest near t = 1


SMALL = [
    MDLM(), MDLM(num_steps=3), SEDD(), UDLM(), D3PM(num_steps=5), GenMD4(), Spindle(), BFN(), GIDD(),
    BFN(num_steps=4), DirichletFlow(), LinearFlow(), BlockDiffusion(MDLM(), 2),
    BlockDiffusion(UDLM(), 3), EDLM(), Plaid(), ARDiffusion(), ARDiffusion(num_steps=4), Difformer(),
    LangFlow(), FLM(),
]  # fmt: skip


@pytest.mark.representatives(
    "nu1",
    "SEDD",
    "UDLM",
    "D3PM",
    "GenMD4",
    "accura1",
    "Dirichlet",
    "EDLM",
    "Plaid",
    "ARDiffusion",
    "Difformer",
)
@pytest.mark.parametrize("process", SMALL, ids=lambda p: repr(p)[:50])
def test_every_process_with_times_is_measured(process):
    """A network that does not know the text; values are finite up to both ends of time."""
    process = complete(process, 5)
    seen = []

    def model(z, t, context=None):
        seen.append((t.shape, context is not None))
        return jax.random.normal(jax.random.key(1), (*z.shape[:2], 5))

    x0, keys = jnp.zeros((2, 4), int), jax.random.split(jax.random.key(0))
    run = jax.jit(lambda place: information(process, model, keys, x0, place, 3))
    for place in (1e-7, 1 - 1e-7):
        got = run(jnp.full((2, 1), place))
        assert got.shape == (3, 2) and np.isfinite(got).all()
    blocks = isinstance(process, BlockDiffusion)
    assert set(seen) == {((2, 4) if blocks else (2, 1), blocks)}


def test_a_grid_of_bfn_does_not_move_its_rate():
    """The loss of a step of BFN is taken at continuous times, whatever num_steps is."""
    x0, keys = jnp.zeros((4, 3), int), jax.random.split(jax.random.key(0), 4)
    model, place = (lambda z, t: jnp.zeros(z.shape)), jnp.full((4, 1), 0.5)
    fine, coarse = (
        information(BFN(4, PowerAccuracy(3.0), n), model, keys, x0, place, 4) for n in (None, 2)
    )
    np.testing.assert_array_equal(fine, coarse)


@pytest.mark.parametrize("process", [Autoregressive(5), OneStep(DirichletFlow(5))])
def test_what_has_no_times_is_rejected(process):
    with pytest.raises(UserError, match=type(process).__name__):
        information(process, None, None, jnp.zeros((2, 4), int), jnp.ones((2, 1)), 3)


@pytest.mark.parametrize("end", [0, -1])
def test_a_fitted_grid_reaches_both_ends_where_an_interval_has_nothing(end):
    told = [1.0, 2.0, 3.0]
    told[end] = 0.0
    times = np.asarray(Ancestral(4, "fitted", tuple(told)).times())
    assert times[0] == 1 and times[-1] == 0 and (np.diff(times) <= 0).all()


def command(name, *arguments):
    return cli.guarded(name, list(map(str, arguments)))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "mdlm"
    sets = [w for s in ("train.num_steps=20", "evaluation.batch_size=24") for w in ("--set", s)]
    assert command("train", "--config", SMOKE, "--workdir", workdir, *sets) == 0
    return workdir


@pytest.fixture
def fitted(run, capsys):
    assert command("fit_grid", "--workdir", run, "--bins", 8, "--num-sequences", 100) == 0
    yield run
    (run / FILE).unlink(missing_ok=True)


def test_the_integral_is_the_diffusion_term_of_the_bound(fitted, capsys):
    record = json.loads((fitted / FILE).read_text())
    options = ["--max-sequences", 100, "--num-times", 8, "--seed", 5]
    options += ["--set", "evaluation.estimator=times", "--out", fitted / "bound.json"]
    assert command("evaluate", "--workdir", fitted, *options) == 0
    bound = json.loads((fitted / "bound.json").read_text())
    assert record["sequences"] == bound["sequences"] == 100
    error = np.hypot(record["integral_standard_error"], bound["nats_per_token_standard_error"])
    gap = abs(record["integral"] - bound["terms_nats_per_token"]["diffusion"])
    assert gap < 4 * error and error < 0.1
    assert record["integral"] == pytest.approx(np.mean(record["information"]), rel=1e-6)
    assert record["checkpoint_fingerprint"] == bound["checkpoint_fingerprint"]
    assert record["split_sha256"] == bound["split_sha256"]


def test_the_file_is_what_a_sampler_takes(fitted, capsys):
    values = fitted_information(fitted)
    assert len(values) == 8 and fitted_information(str(fitted), load_run(str(fitted))) == values
    assert capsys.readouterr().err == ""
    times = np.asarray(Ancestral(4, "fitted", values).times())
    told = np.interp(times, np.arange(9) / 8, np.cumsum([0, *values]))
    np.testing.assert_allclose(-np.diff(told), np.sum(values) / 4, rtol=1e-4)


def test_the_table_is_printed_and_batches_do_not_matter(run, tmp_path, capsys):
    options = ["--workdir", run, "--bins", 4, "--num-sequences", 30, "--split", "test"]
    assert command("fit_grid", *options, "--out", tmp_path / "a.json") == 0
    shown = capsys.readouterr().out
    assert "0.7500-1.0000" in shown and "30 sequences of test, checkpoint 20" in shown
    more = ["--set", "evaluation.batch_size=7", "--out", tmp_path / "b.json"]
    assert command("fit_grid", *options, *more) == 0
    a, b = (json.loads((tmp_path / f"{n}.json").read_text()) for n in "ab")
    np.testing.assert_allclose(a["information"], b["information"], rtol=1e-4)
    assert not (run / FILE).exists()


def test_another_checkpoint_is_said_and_another_process_rejected(fitted, capsys):
    path = fitted / FILE
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"checkpoint_fingerprint": "0" * 16, "checkpoint_step": 7}))
    assert fitted_information(fitted) == tuple(record["information"])
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1 and "another checkpoint (7, not 20)" in warning
    path.write_text(json.dumps(record | {"process": "UDLM"}))
    with pytest.raises(UserError, match="measured for UDLM, and the run holds MDLM"):
        fitted_information(fitted, load_run(str(fitted)))


BAD = [
    lambda r: r | {"information": [1.0, float("nan"), *r["information"][2:]]},
    lambda r: r | {"information": [1.0, float("inf"), *r["information"][2:]]},
    lambda r: r | {"information": [1.0, -1.0, *r["information"][2:]]},
    lambda r: r | {"information": [True, *r["information"][1:]]},
    lambda r: r | {"information": ["1", *r["information"][1:]]},
    lambda r: r | {"information": r["information"][1:]},
    lambda r: r | {"information": [], "standard_error": []},
    lambda r: r | {"information": [0.0] * 8},
    lambda r: r | {"information": {"0": 1.0}},
    lambda r: r | {"schema": "another"},
    lambda r: r | {"sequences": 0},
    lambda r: r | {"checkpoint_step": -1},
    lambda r: {k: v for k, v in r.items() if k != "checkpoint_fingerprint"},
    lambda r: [r],
]


def test_a_damaged_file_is_one_line(fitted):
    path = fitted / FILE
    good = json.loads(path.read_text())
    texts = [json.dumps(change(good)) for change in BAD]
    texts += ["", "{", path.read_text()[:-40], "[" * 100_000, '{"information": 1e999}']
    for text in [*texts, b"\x80\x04\xff"]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError) as error:
            fitted_information(fitted)
        said = str(error.value)
        assert "cannot be read" in said and "fit_grid --workdir" in said and "\n" not in said
        assert len(said) < 500


def test_mistakes_are_one_line_and_leave_no_file(run, tmp_path, capsys):
    cases = {
        "no checkpoint": ["--workdir", tmp_path],
        "split 'valid'": ["--workdir", run, "--split", "valid"],
        "--bins 0": ["--workdir", run, "--bins", 0],
        "at most 4096": ["--workdir", run, "--bins", 5000],
        "standard error": ["--workdir", run, "--num-sequences", 1],
    }
    for said, arguments in cases.items():
        assert command("fit_grid", *arguments) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and said.replace("--bins 0", "0 must be") in error
    with pytest.raises(UserError, match="does not exist; run python -m experiments"):
        fitted_information(run)
    assert not (run / FILE).exists()
