"""log p(y | x) of some positions given the others, against exact numbers."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText, Toy, quadrature

from diffusion.any_order import AnyOrder, RandomOrders
from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN
from diffusion.block import BlockDiffusion
from diffusion.conditional import Conditional
from diffusion.genmd4 import GenMD4
from diffusion.kernels import Absorbing
from diffusion.mdlm import MDLM
from diffusion.process import denoising_process
from diffusion.schedules import Linear, MDLMCosine
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from models.backbone import Network
from models.transformer import Transformer

KNOWN = np.array([[False, False, False], [True, False, False], [False, True, True]])


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


def neg_log_p(toy, known):
    """-log p(y | x) of every sequence, x where `known`: by sums of the toy's probabilities."""
    same = (toy.states[:, None] == toy.states[None]) | ~known
    return -np.log(toy.p / (same.all(-1) @ toy.p))


def drawn(make, model, x0, count):
    """draws(known (L,)), (B, count) nats of each row, of the bound make(known (N, L)); compiled once."""

    @jax.jit
    def values(known):
        rows = jnp.repeat(x0, count, axis=0)
        u = jnp.tile((jnp.arange(count) + 0.5) / count, len(x0))[:, None]
        bound = make(repeated(known, len(rows)))
        terms = bound.bound_terms(jax.random.key(0), OneText(model), rows, u)
        return sum(terms.values()).sum(1).reshape(-1, count)

    return lambda known: np.asarray(values(known), np.float64)


def repeated(known, rows):
    return jnp.broadcast_to(jnp.asarray(known), (rows, len(known)))


EXACT = {
    "mdlm": MDLM(3, MDLMCosine()),
    "sedd": SEDD(3, Absorbing(), Linear(), head="leave_one_out"),
}


@pytest.mark.parametrize("name", EXACT)
def test_with_the_exact_denoiser_the_bound_is_the_conditional_likelihood(
    name, toy, x64, monkeypatch
):
    """z enumerated, time integrated by quadrature; z has other tokens in the places of x."""
    process = EXACT[name]
    model, z = toy.denoiser(process), jnp.asarray(toy.all_states(process))
    rows = jnp.repeat(jnp.asarray(toy.states), len(z), axis=0)
    monkeypatch.setattr(type(process), "corrupt", lambda *_: jnp.tile(z, (len(toy.p), 1)))

    @jax.jit
    def at(t, known):
        bound = Conditional(process, repeated(known, len(rows)))
        terms = bound.bound_terms(jax.random.key(0), model, rows, jnp.full((len(rows), 1), t))
        nats = sum(terms.values()).sum(1).reshape(len(toy.p), len(z))
        q = toy.transition(process, z, jnp.full((len(z), 1), t))
        return jnp.where(q > 0, q * nats, 0).sum(1)

    for known in KNOWN:
        nodes = zip(*quadrature(), strict=True)
        mean = sum(weight * at(time, known) for time, weight in nodes)
        np.testing.assert_allclose(mean, neg_log_p(toy, known), rtol=1e-4)


def test_in_any_order_it_is_the_conditional_likelihood(toy):
    """Every order of its own, and in the mean over numbers of masked tokens."""
    model, x0, process = toy.denoiser(MDLM(3)), jnp.asarray(toy.states), MDLM(3)
    order = drawn(lambda known: RandomOrders(process, orders=1, known=known), model, x0, 1)
    number = drawn(lambda known: AnyOrder(process, known=known), model, x0, 300)
    for known in KNOWN:
        exact = neg_log_p(toy, known)
        np.testing.assert_allclose(order(known)[:, 0], exact, rtol=1e-4, atol=1e-5)
        nats = number(known)
        error = nats.std(1) / np.sqrt(300)
        assert np.all(np.abs(nats.mean(1) - exact) < 5 * error + 1e-5)


@pytest.mark.parametrize("group", [1, 2])
def test_of_an_inconsistent_network_it_is_the_mean_over_orders_and_a_bound(group, toy):
    """Every order of the unknown positions by single calls; x is shown in all of them."""
    table = 2 * jax.random.normal(jax.random.key(1), (4, 4, 4, 3, 3))

    def network(z, t):
        return table[z[:, 0], z[:, 1], z[:, 2]]

    known, process, x0 = np.array([False, True, False]), MDLM(3), toy.states
    log_p = []
    for order in itertools.permutations(np.flatnonzero(~known)):
        total, shown = 0, known.copy()
        for first in range(0, len(order), group):
            places = list(order[first : first + group])
            z = jnp.where(shown[None], x0, 3)
            log_p0 = np.asarray(process.predict(network(z, 0), z, jnp.ones((len(z), 1))))
            total = total + sum(log_p0[np.arange(len(z)), i, x0[:, i]] for i in places)
            shown[places] = True
        log_p.append(total)
    exact, rows = -np.mean(log_p, axis=0), jnp.asarray(x0)
    nats = drawn(lambda known: AnyOrder(process, group, known), network, rows, 300)(known)
    assert np.all(np.abs(nats.mean(1) - exact) < 5 * nats.std(1) / np.sqrt(300) + 1e-5)
    mixture = np.log(len(log_p)) - np.logaddexp.reduce(log_p, axis=0)
    each = drawn(lambda known: RandomOrders(process, group, 1, known), network, rows, 300)(known)
    assert np.all(each.mean(1) > mixture - 5 * each.std(1) / np.sqrt(300) - 1e-5)


def test_the_network_is_asked_at_the_share_of_masks_among_all_tokens():
    seen = {}

    @OneText
    def model(z, t):
        seen["masked"], seen["t"] = (np.asarray(z) == 4).sum(1), np.asarray(t)[:, 0]
        return jnp.zeros((*z.shape, 4))

    known = repeated(np.arange(8) < 5, 6)
    u = ((jnp.arange(6) + 0.5) / 6)[:, None]
    terms = AnyOrder(MDLM(4), known=known).bound_terms(
        jax.random.key(0), model, jnp.zeros((6, 8), int), u
    )
    np.testing.assert_array_equal(seen["masked"], [3, 3, 2, 2, 1, 1])
    np.testing.assert_allclose(seen["t"], seen["masked"] / 8, atol=1e-6)
    assert np.all(np.asarray(terms["any order"])[:, :5] == 0)


def test_of_masks_that_depend_on_the_token_draws_agree_with_the_conditional_likelihood(toy):
    process, count = GenMD4(3).bind(GenMD4(3).init(jax.random.key(0))), 1000
    model, x0 = toy.denoiser(process), jnp.asarray(toy.states)
    nats = drawn(lambda known: Conditional(process, known), model, x0, count)(KNOWN[1])
    error = nats.std(1) / np.sqrt(count)
    assert np.all(np.abs(nats.mean(1) - neg_log_p(toy, KNOWN[1])) < 5 * error + 1e-3)


@pytest.mark.parametrize("process", [UDLM(4), BFN(4), BlockDiffusion(MDLM(4), 2)], ids=str)
def test_networks_of_every_state_space_see_the_known_tokens_clean(process):
    known, x0 = repeated([True, True, True, False], 2), jnp.array([[3, 1, 2, 0], [0, 1, 2, 3]])
    space, seen = denoising_process(process).space, []

    @OneText
    def model(z, t, **condition):
        seen.append((space.tokens(z), condition))
        return jnp.zeros((*z.shape[:2], 4))

    bound = Conditional(process, known)
    terms = bound.bound_terms(jax.random.key(0), model, x0, jnp.full((2, 1), 0.49))
    for tokens, condition in seen:
        np.testing.assert_array_equal(tokens[:, :3], x0[:, :3])
        assert list(condition) == (["context"] if isinstance(process, BlockDiffusion) else [])
    assert all(np.all(np.asarray(term)[:, :3] == 0) for term in terms.values())
    assert any(np.any(np.asarray(term)[:, 3] > 0) for term in terms.values())


NETWORK = {"vocab_size": 5, "num_layers": 2, "width": 16, "num_heads": 2, "dtype": "float32"}


def perturbed(model):
    return jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape),
        model.init(jax.random.key(0)),
    )


@pytest.mark.parametrize("base", [MDLM(5), BlockDiffusion(MDLM(5), 4), Autoregressive(5)], ids=str)
def test_padding_changes_nothing_and_the_context_does(base):
    """The same draws, of a row of its own length and of one with padding: one key a position."""
    model = Transformer(**NETWORK, block_length=base.traits.attention_block)
    params, length = perturbed(model), 10
    x0 = jax.random.randint(jax.random.key(2), (2, 16), 0, 5)
    known = repeated(np.arange(16) < 4, 2)
    keys, u = jax.random.split(jax.random.key(3), 2), jnp.full((2, 1), 0.4)

    @partial(jax.jit, static_argnums=1)
    def nats(x0, size):
        segments = repeated((np.arange(size) < length).astype(int), 2)
        network = Network(model, params, {"segments": segments} if size > length else {})
        bound = Conditional(base, known[:, :size])
        if base == MDLM(5):
            bound = AnyOrder(base, known=known[:, :size])
        terms = bound.bound_terms(keys, network, x0[:, :size], u)
        return sum(terms.values())[:, :length]

    own = nats(x0, length)
    if not isinstance(base, BlockDiffusion):  # whose times are spread over the blocks of a row
        np.testing.assert_allclose(nats(x0, 16), own, atol=1e-5)
    other = x0.at[:, length:].set((x0[:, length:] + 1) % 5)
    np.testing.assert_allclose(nats(other, 16), nats(x0, 16), atol=1e-5)
    assert np.abs(nats(x0.at[:, 0].set((x0[:, 0] + 1) % 5), length) - own).max() > 1e-3
