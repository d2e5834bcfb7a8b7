"""Where the nats of a bound are: the parts add up to it, and are those of the times and positions."""

from dataclasses import replace
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText

from configs.smoke import get_config
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from experiments.config import Evaluation
from experiments.devices.sharding import make_mesh
from experiments.evaluation.bound import estimate
from experiments.evaluation.breakdown import Breakdown, at_times, in_parts
from experiments.evaluation.estimators import make_bound

V, L = 5, 20
SMOKE = get_config()


def breakdown(process, chosen, network, num_times, rows=3, tail=5):
    """(nats per token, its breakdown) of rows of zeros by a network that is given."""
    model = OneText(network)
    experiment = SimpleNamespace(
        process=process,
        model=SMOKE.model,
        data=replace(SMOKE.data, length=L),
        evaluation=Evaluation(estimator=chosen, batch_size=2),
        bind=lambda params, frozen: process,
        network=lambda params: model,
    )
    mesh = make_mesh(SMOKE.mesh)
    bound = make_bound(experiment, num_times, 0, mesh)
    text = np.zeros(rows * L + tail, np.int32)
    result, found = estimate(experiment, bound, {}, text, mesh, len(text))
    return result.nats_per_token, found


def by_share(z, t, slope=1):
    """Surer of the token 0 the fewer positions are masked, and later ones more than earlier ones."""
    known = (z < V).mean(1)[:, None] + slope * jnp.arange(z.shape[1])[None] / L
    return jnp.zeros((*z.shape, V)).at[..., 0].set(2 * known)


@pytest.mark.parametrize(
    "process, chosen, terms",
    [
        (MDLM(V), "any_order", 1),
        (MDLM(V, Linear(eps=1e-2)), "quadrature", 2),
        (D3PM(V, Uniform(), num_steps=20), "low_discrepancy", 2),
        (BlockDiffusion(MDLM(V), 4), "times", 1),
        (MDLM(V), "orders", 1),
    ],
)
def test_the_parts_of_each_term_add_up_to_it_and_the_terms_to_the_value(process, chosen, terms):
    value, found = breakdown(process, chosen, lambda z, t, **_: by_share(z, t), 2)
    assert len(found.terms) == terms and sum(found.terms.values()) == pytest.approx(value, rel=1e-9)
    of_times = chosen != "orders" and not isinstance(process, BlockDiffusion)
    assert set(found.at_times) == (set(found.terms) if of_times else set())
    for name, nats in found.terms.items():
        assert len(found.at_positions[name]) == 10
        assert sum(found.at_positions[name]) == pytest.approx(nats, rel=1e-5)
        if of_times:
            assert sum(found.at_times[name]) == pytest.approx(nats, rel=1e-9)


def test_each_time_has_the_nats_of_what_a_network_says_there():
    """In random order each of 20 strata is one number of masked tokens; 0 is data, 1 is noise."""
    known = 1 - np.arange(1, L + 1) / L
    nats = np.log(np.exp(2 * known) + V - 1) - 2 * known
    _, found = breakdown(MDLM(V), "any_order", lambda z, t: by_share(z, t, 0), 20, tail=0)
    times = found.at_times["any order"]
    np.testing.assert_allclose(times, nats.reshape(10, 2).sum(1) / 20, rtol=1e-5)
    _, found = breakdown(MDLM(V), "low_discrepancy", by_share, 20, rows=40)
    times, positions = found.at_times["diffusion"], found.at_positions["diffusion"]
    assert np.argsort(times).tolist() == list(range(10))
    assert np.argsort(positions).tolist() == list(range(10))[::-1]


def test_a_tenth_of_time_holds_what_was_drawn_in_it_and_few_positions_are_apart():
    times = [np.array([[0.0, 0.999]]), np.array([[0.1, 0.55]])]
    found = at_times({"a": np.array([[2.0, 4.0], [6.0, 8.0]])}, times)
    assert found["a"].tolist() == [1, 3, 0, 0, 0, 4, 0, 0, 0, 2]
    assert at_times({"a": np.ones((2, 2))}, []) == {}
    assert in_parts(jnp.arange(6.0).reshape(2, 3), 3).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert in_parts(jnp.ones((1, 25)), 25)[0].tolist() == [2, 3, 3, 2, 2, 3, 3, 2, 2, 3]
    assert in_parts(jnp.ones((1, 3)), 20)[0].tolist() == [2, 1] + [0] * 8


def test_metrics_have_the_sum_over_terms_by_the_interval():
    parts = Breakdown({}, {}, {"a": [1.0, 2.0], "b": [10.0, 20.0]})
    assert parts.metrics() == {"eval_at_positions/0.0-0.5": 11.0, "eval_at_positions/0.5-1.0": 22.0}
