"""The any-order likelihood of a masked model against exact numbers, and against the other bound."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText, Toy

from diffusion.any_order import AnyOrder, RandomOrders
from diffusion.genmd4 import GenMD4
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, MDLMCosine, time_of
from diffusion.udlm import UDLM
from models.backbone import Network
from models.transformer import Transformer


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


def totals(process, model, x0, draws, key=0):
    """(B, draws) nats of each sequence."""

    model = OneText(model)

    @jax.jit
    def values(key):
        rows = jnp.repeat(x0, draws, axis=0)
        u = jnp.tile((jnp.arange(draws) + 0.5) / draws, len(x0))[:, None]
        terms = process.bound_terms(key, model, rows, u)
        return sum(terms.values()).sum(1).reshape(-1, draws)

    return np.asarray(values(jax.random.key(key)), np.float64)


@pytest.mark.parametrize("schedule", [Linear(), MDLMCosine()])
def test_single_tokens_with_the_exact_denoiser_give_the_likelihood(schedule, toy):
    process = AnyOrder(MDLM(3, schedule))
    nats = totals(process, toy.denoiser(process.base), jnp.asarray(toy.states), 1000)
    assert np.all(np.abs(nats.mean(1) - toy.neg_logp) < 5 * nats.std(1) / np.sqrt(1000))


@pytest.mark.parametrize("group", [2, 3])
def test_groups_give_a_bound_that_is_looser_by_what_they_ignore(group, toy):
    """Groups of 2 of 3 positions: in the mean over the three choices of the pair that comes first."""
    process = AnyOrder(MDLM(3), group)
    nats = totals(process, toy.denoiser(process.base), jnp.asarray(toy.states), 1000)
    joint = np.zeros((3, 3, 3))
    joint[tuple(toy.states.T)] = toy.p
    single = [np.log(joint.sum(tuple(a for a in range(3) if a != i))) for i in range(3)]
    exact = []
    for x, log_p in zip(toy.states, np.log(toy.p), strict=True):
        alone = [single[i][x[i]] for i in range(3)]
        if group == 3:
            exact.append(-sum(alone))
            continue
        orders = []
        for last in range(3):
            pair = np.log(joint.sum(last)[tuple(np.delete(x, last))])
            orders.append(sum(alone) - alone[last] + log_p - pair)
        exact.append(-np.mean(orders))
    error = nats.std(1) / np.sqrt(1000)
    assert np.all(np.abs(nats.mean(1) - exact) < 5 * error + 1e-5)
    assert toy.p @ nats.mean(1) > toy.p @ toy.neg_logp + 0.01


def test_it_is_the_masked_bound_of_a_network_by_other_samples_of_lower_variance():
    """A network that is no consistent model at all: both are means of one thing."""
    model = Transformer(vocab_size=5, num_layers=2, width=16, num_heads=2, dtype="float32")
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape),
        model.init(jax.random.key(0)),
    )
    x0 = jax.random.randint(jax.random.key(2), (2, 8), 0, 5)
    base, network, draws = MDLM(5), Network(model, params), 3000

    class Continuous:
        bound_terms = base.bound_terms

    a, b = (totals(p, network, x0, draws) for p in (AnyOrder(base), Continuous()))
    error = np.sqrt((a.var(1) + b.var(1)) / draws)
    assert np.all(np.abs(a.mean(1) - b.mean(1)) < 5 * error)
    assert np.all(a.var(1) < 0.8 * b.var(1))


def test_exactly_so_many_are_masked_and_the_time_says_so():
    seen = {}

    @OneText
    def model(z, t):
        seen["masked"], seen["t"] = (np.asarray(z) == 4).sum(1), np.asarray(t)[:, 0]
        return jnp.zeros((*z.shape, 4))

    u = ((jnp.arange(20) + 0.5) / 20)[:, None]
    AnyOrder(MDLM(4), group=3).bound_terms(jax.random.key(0), model, jnp.zeros((20, 10), int), u)
    np.testing.assert_array_equal(seen["masked"], np.repeat([10, 7, 4, 1], 5))
    np.testing.assert_allclose(seen["t"], seen["masked"] / 10, atol=1e-6)


@pytest.mark.parametrize("process", [UDLM(3), GenMD4(3)])
def test_other_processes_are_rejected(process):
    with pytest.raises(ValueError, match="any-order"):
        AnyOrder(process)


def distribution_of_orders(toy, model, process):
    """-log of the mean over all orders of p(x in that order), of every sequence, by single calls."""
    log_p = []
    for order in itertools.permutations(range(toy.length)):
        total, known = 0, []
        for place in order:
            shown = np.isin(np.arange(toy.length), known)[None]
            z = jnp.where(shown, jnp.asarray(toy.states), 3)
            share = 1 - len(known) / toy.length
            t = jnp.full((len(z), 1), time_of(process.schedule, jnp.log(share)))
            distribution = np.asarray(process.predict(model(z, t), z, t))[:, place]
            total = total + distribution[np.arange(len(z)), toy.states[:, place]]
            known.append(place)
        log_p.append(total)
    return np.log(len(log_p)) - np.logaddexp.reduce(log_p, axis=0)


def test_more_orders_tighten_the_bound_to_the_distribution_of_the_random_order_sampler(toy):
    """Of a network that is no consistent model, so that orders differ."""
    table = 2 * jax.random.normal(jax.random.key(1), (4, 4, 4, 3, 3))

    def network(z, t):
        return table[z[:, 0], z[:, 1], z[:, 2]]

    base, x0 = MDLM(3), jnp.asarray(toy.states)
    exact = distribution_of_orders(toy, network, base)
    assert abs(np.exp(-exact).sum() - 1) < 1e-4  # a distribution over all sequences
    means, errors = {}, {}
    for orders in (1, 2, 64):
        nats = totals(RandomOrders(base, orders=orders), network, x0, 300 if orders < 64 else 10)
        means[orders] = nats.mean(1)
        errors[orders] = error = nats.std(1) / np.sqrt(nats.shape[1])
        assert np.all(nats.mean(1) > exact - 5 * error - 1e-4)
    plain = totals(AnyOrder(base), network, x0, 900)
    both = np.concatenate([errors[1], plain.std(1) / np.sqrt(900)])
    assert abs(means[1].mean() - plain.mean()) < 5 * np.sqrt((both**2).sum()) / len(exact)
    gaps = {orders: (mean - exact).mean() for orders, mean in means.items()}
    assert gaps[1] > 1.5 * gaps[2] > 10 * gaps[64]


def test_orders_of_groups_with_the_exact_denoiser_bound_the_likelihood_of_their_sampler(toy):
    """A group of all tokens needs no order: every order is the product of what each token has alone."""
    process = RandomOrders(MDLM(3), group=3, orders=2)
    nats = totals(process, toy.denoiser(process.base), jnp.asarray(toy.states), 2)
    joint = np.zeros((3, 3, 3))
    joint[tuple(toy.states.T)] = toy.p
    single = [np.log(joint.sum(tuple(a for a in range(3) if a != i))) for i in range(3)]
    alone = [-sum(single[i][x[i]] for i in range(3)) for x in toy.states]
    np.testing.assert_allclose(nats.mean(1), alone, rtol=1e-4)
