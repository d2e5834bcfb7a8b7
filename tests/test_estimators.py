"""Estimators by name: one mean, less noise, and intervals that hold what they say."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SMALL
from oracle import OneText, Toy

from configs.smoke import get_config
from diffusion.any_order import AnyOrder
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from experiments import cli
from experiments.config import Evaluation
from experiments.devices.sharding import make_mesh
from experiments.evaluation import estimators
from experiments.evaluation.estimators import estimator, make_bound
from experiments.evaluation.units import Estimate


@pytest.mark.parametrize("objective, least", [(AnyOrder(MDLM(3)), 0.905), (MDLM(3), 0.83)])
def test_intervals_hold_the_true_value_at_the_rate_they_say(objective, least):
    """Of 95 %, over 400 evaluations of 100 sequences each by the exact denoiser, within four standard
    errors of the rate. At times the weight 1 / t has a long tail, whose interval is a little short."""
    toy, repeats, size, times = Toy.named(), 400, 100, 2
    rng = np.random.default_rng(0)
    index = rng.choice(len(toy.p), repeats * size, p=toy.p / toy.p.sum())
    x0 = jnp.repeat(jnp.asarray(toy.states[index]), times, axis=0)
    u = (jnp.tile(jnp.arange(times), len(index)) + rng.random(len(x0))) / times
    model, u = OneText(toy.denoiser(MDLM(3))), jnp.asarray(u[:, None], jnp.float32)
    terms = jax.jit(lambda key: objective.bound_terms(key, model, x0, u))(jax.random.key(1))
    nats = np.asarray(sum(terms.values()), np.float64).sum(1).reshape(repeats, size, times)
    truth = toy.p @ toy.neg_logp / 3
    covered = 0
    for values in nats:
        found = Estimate(values, np.full(size, 3), 3 * size)
        covered += abs(found.nats_per_token - truth) < 1.96 * found.standard_error()
    assert least < covered / repeats < 0.99


NETWORK = replace(get_config().model, vocab_size=27)


def experiment(chosen="auto", process=None, **settings):
    process = process or MDLM(27)
    base = replace(get_config(), process=process, model=NETWORK)
    return replace(base, evaluation=Evaluation(estimator=chosen, **settings))


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "any_order"),
        ({"process": MDLM(27, Linear(eps=1e-3))}, "low_discrepancy"),  # with boundary terms
        ({"process": MDLM(27, num_steps=8)}, "low_discrepancy"),
        ({"process": SEDD(27)}, "low_discrepancy"),
        ({"process": UDLM(27)}, "low_discrepancy"),
        ({"group": 2}, "low_discrepancy"),
        ({"chosen": "times"}, "times"),
    ],
)
def test_the_default_is_in_random_order_where_that_has_the_same_mean(changes, expected):
    assert estimator(experiment(**changes)) == expected


def test_a_network_with_time_has_its_own_mean_in_random_order():
    base = experiment()
    timed = replace(base, model=replace(NETWORK, time_conditioning=True))
    assert estimator(timed) == "low_discrepancy"


def test_estimators_have_one_mean_and_the_default_the_least_noise():
    """Of a network that is no consistent model; quadrature of few nodes has an error of its own."""
    base = experiment()
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(2), x.shape),
        base.init_params(jax.random.key(0)),
    )
    mesh, x0 = make_mesh(base.mesh), jax.random.randint(jax.random.key(3), (256, 12), 0, 27)
    x0 = jnp.repeat(x0[:4], 64, axis=0)  # four sequences, each 64 times
    found = {}
    for name in ("times", "low_discrepancy", "quadrature", "any_order"):
        terms = make_bound(experiment(name), 4, 0, mesh)(params, x0, 0).terms
        nats = np.asarray(sum(terms.values()), np.float64).mean(1).reshape(4, 64)
        found[name] = nats.mean(), nats.std(1).mean()
    for name, (mean, noise) in found.items():
        error = 5 * np.hypot(noise, found["times"][1]) / 16
        assert abs(mean - found["times"][0]) < error + (0.03 * mean if name == "quadrature" else 0)
    assert found["any_order"][1] < 0.8 * found["times"][1]


def test_quadrature_weighs_its_nodes(monkeypatch):
    base = experiment("quadrature")
    params, mesh = base.init_params(jax.random.key(0)), make_mesh(base.mesh)
    x0 = jax.random.randint(jax.random.key(3), (32, 12), 0, 27)

    def nats():
        return np.asarray(sum(make_bound(base, 3, 0, mesh)(params, x0, 0).terms.values()))

    weighted, places = nats(), estimators._places
    monkeypatch.setattr(
        estimators, "_places", lambda *given: (places(*given)[0], jnp.ones(given[1]))
    )
    np.testing.assert_allclose(weighted, nats() * np.array([5, 8, 5]) / 6, rtol=1e-5)


@pytest.mark.parametrize("first", [0, 123_456_789])
def test_times_of_low_discrepancy_cover_the_interval_over_neighbours(first):
    numbers = first + jnp.arange(100)
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(0), n))(numbers)
    apart = np.sort(np.asarray(estimators._places("low_discrepancy", 1, keys, 0, numbers)[0][0]))
    by_chance = np.sort(np.asarray(estimators._places("times", 1, keys, 0, numbers)[0][0]))
    assert np.diff(apart).max() < 0.02 < np.diff(by_chance).max()
    places, weights = estimators._places("quadrature", 5, keys, 0, numbers)
    np.testing.assert_allclose((weights * places[:, 0] ** 9).mean(), 0.1, rtol=1e-5)
    assert (places == places[:, :1]).all()


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "mdlm"
    sets = [word for s in [*SMALL, "data.length=12"] for word in ("--set", s)]
    where = ["--config", "configs/sotu/mdlm.py", "--workdir", str(workdir)]
    assert cli.guarded("train", [*where, *sets]) == 0
    return workdir


@pytest.mark.parametrize(
    "settings, kind, said",
    [
        ([], "bound", "random order, 1 token at a time: mean over 2"),
        (["estimator=times"], "bound", "mean over 2 stratified times per sequence"),
        (["estimator=quadrature"], "estimate", "Gauss-Legendre quadrature at 2 times"),
        (["estimator=orders", "orders=3"], "bound", "3 random orders per sequence, 1 token"),
        (["estimator=orders", "group=6"], "bound", "4 random orders per sequence, 6 tokens"),
    ],
)
def test_records_name_their_estimator(settings, kind, said, run, tmp_path):
    out = tmp_path / "record.json"
    sets = [word for s in settings for word in ("--set", f"evaluation.{s}")]
    where = ["--workdir", str(run), "--num-times", "2", "--max-sequences", "16", "--out", str(out)]
    assert cli.guarded("evaluate", [*where, *sets]) == 0
    record = json.loads(out.read_text())
    assert record["kind"] == kind and record["estimator"].startswith(said)
    assert 4 < record["value"] < 6 and record["sequences"] == 16


@pytest.mark.representatives()
def test_noise_of_estimators_is_measured(run, tmp_path, capsys):
    out = tmp_path / "noise.json"
    options = ["--num-times", "1", "2", "--repeats", "3", "--max-sequences", "8", "--out", str(out)]
    assert cli.guarded("studies.estimator_noise", ["--workdir", str(run), *options]) == 0
    rows = json.loads(out.read_text())["rows"]
    names = ["times", "low_discrepancy", "quadrature", "any_order"]
    assert [(r["estimator"], r["num_times"]) for r in rows] == [
        (n, k) for n in names for k in (1, 2)
    ]
    assert all(1 < r["nats_per_token"] < 9 and r["noise"] > 0 for r in rows)
    assert capsys.readouterr().out.count("noise of one evaluation") == 8
