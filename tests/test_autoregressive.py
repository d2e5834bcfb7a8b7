"""The autoregressive yardstick: exact likelihood, exact sampling, with and without a cache."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import OneText, Toy, assert_distribution

from diffusion.autoregressive import Autoregressive
from models.backbone import Network
from models.transformer import Transformer
from samplers.autoregressive import LeftToRight

MODEL = Transformer(
    vocab_size=5, num_layers=2, width=16, num_heads=2, block_length=1, dtype="float32"
)
ROWS = 10_000


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


def conditionals(toy):
    """model(inputs, t) -> log p(x^i | x before i) of the toy, from inputs that begin with the start."""

    @OneText
    def model(inputs, t):
        before = jnp.eye(toy.vocab_size + 1)[inputs[:, 1:]][..., : toy.vocab_size]
        agrees = jnp.einsum("blv,nlv->bnl", before, toy.one_hot[:, :-1])
        agrees = jnp.cumprod(agrees, axis=-1)
        agrees = jnp.concatenate([jnp.ones_like(agrees[..., :1]), agrees], axis=-1)
        joint = jnp.einsum("bnl,n,nlv->blv", agrees, toy.p, toy.one_hot)
        return jnp.log(joint) - jnp.log(joint.sum(-1, keepdims=True))

    return model


@pytest.fixture(scope="module")
def network():
    params = MODEL.init(jax.random.key(0))
    noisy = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    return Network(MODEL, noisy)


def test_likelihood_is_that_of_the_chain_rule(toy):
    objective = Autoregressive(toy.vocab_size)
    nats = objective.bound(None, conditionals(toy), jnp.asarray(toy.states), None)
    np.testing.assert_allclose(nats.sum(1), toy.neg_logp, rtol=1e-5)


def test_output_never_sees_the_token_it_speaks_of(network):
    objective = Autoregressive(MODEL.vocab_size)
    x0 = jax.random.randint(jax.random.key(2), (1, 6), 0, 5)
    before = objective.log_p(network, x0)
    after = objective.log_p(network, x0.at[:, 3].set((x0[:, 3] + 1) % 5))
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert (before[:, 3:] != after[:, 3:]).all()


def test_distribution_of_the_samples_is_exact(toy):
    draw = jax.jit(
        lambda key: LeftToRight(cached=False).sample(
            key, Autoregressive(toy.vocab_size), conditionals(toy), (ROWS, toy.length)
        )
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    assert_distribution(counts, toy.p)


def test_a_prompt_conditions_exactly(toy):
    given = jnp.broadcast_to(jnp.array([2, -1, -1]), (ROWS, 3))
    draw = jax.jit(
        lambda key: LeftToRight(cached=False).sample(
            key, Autoregressive(toy.vocab_size), conditionals(toy), (ROWS, 3), given
        )
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    agrees = toy.states[:, 0] == 2
    assert_distribution(counts, np.where(agrees, toy.p, 0) / toy.p[agrees].sum())


def test_cached_samples_are_those_without_a_cache(network):
    """Also for a prompt, for several rows, and row by row."""
    objective, keys = Autoregressive(5), jax.random.split(jax.random.key(3), 6)
    given = jnp.full((6, 24), -1).at[:, :3].set(jnp.arange(18).reshape(6, 3) % 5)

    @jax.jit
    def draw(keys, given):
        shape = given.shape
        return [
            LeftToRight(cached=cached).sample(keys, objective, network, shape, given)
            for cached in (True, False)
        ]

    cached, uncached = draw(keys, given)
    np.testing.assert_array_equal(cached, uncached)
    np.testing.assert_array_equal(draw(keys[2:4], given[2:4])[0], cached[2:4])
    np.testing.assert_array_equal(cached[:, :3], given[:, :3])
    assert len(np.unique(cached, axis=0)) == 6


@pytest.mark.representatives("2-False", "3-True")
@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_decoding_block_by_block_gives_the_outputs_of_one_pass(size, timed):
    model = replace(MODEL, block_length=size, time_conditioning=timed, condition_width=8)
    params = model.init(jax.random.key(0))
    params = jax.tree.map(lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape), params)
    x0, z = jax.random.randint(jax.random.key(2), (2, 3, 6), 0, 5)
    t = jnp.full((3, 1), 0.7)
    network = Network(model, params)
    cache, outputs = network.cache(3, 6), []
    decode, whole = jax.jit(network.decode), jax.jit(network.__call__)
    for start in range(0, 6, size):
        here = slice(start, start + size)
        outputs.append(decode(z[:, here], t, cache, start)[0])
        _, cache = decode(x0[:, here], jnp.zeros((3, 1)), cache, start)
    together = whole(z, t, context=x0)
    np.testing.assert_allclose(jnp.concatenate(outputs, axis=1), together, atol=2e-5)
    assert np.abs(together - whole(z, t)).max() > 0.01  # the context counts


def test_a_span_hides_what_is_further_back(network):
    x = jax.random.randint(jax.random.key(2), (1, 8), 0, 5)
    t = jnp.zeros((1, 1))

    @partial(jax.jit, static_argnums=1)
    def last(x, span):
        cache = network.cache(1, 8)
        for i in range(8):
            out, cache = network.decode(x[:, i : i + 1], t, cache, i, span)
        return out

    changed = x.at[:, 0].set((x[:, 0] + 1) % 5)
    # Two layers of span 3 reach back 2 x 2 positions from the last.
    np.testing.assert_array_equal(last(x, 3), last(changed, 3))
    assert np.abs(last(x, None) - last(changed, None)).max() > 1e-4
    np.testing.assert_array_equal(last(x, 8), last(x, None))


@pytest.mark.parametrize("wrong", [dict(span=0), dict(span=4, cached=False)])
def test_impossible_samplers_are_rejected(wrong):
    with pytest.raises(ValueError, match="LeftToRight"):
        LeftToRight(**wrong)
