"""Block diffusion on toys: its bound, its distribution, and its two ends, one token and the whole
sequence."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import FLOOR, Toy, assert_distribution, quadrature

from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.dirichlet import DirichletFlow
from diffusion.kernels import Absorbing, Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Cosine, Linear, MDLMCosine, Polynomial
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from models.backbone import Network
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.blocks import BlockByBlock
from samplers.unmask import EntropyBudget, Unmask

ROWS = 10_000


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


class Exact:
    """The exact denoiser of each block given the blocks before it, in both forms that are called."""

    def __init__(self, toy, process):
        self.toy, self.size, self.base = toy, process.block_length, process.base

    def __call__(self, z, t, context):
        toy, block = self.toy, np.arange(self.toy.length) // self.size
        t = jnp.broadcast_to(t, z.shape[:2])
        likelihood = jnp.maximum(self.base.log_likelihood(z, t), FLOOR)
        here = jnp.einsum("blv,nlv->bnl", likelihood, toy.one_hot)
        known = jnp.where(context[:, None] == toy.states[None], 0.0, FLOOR)
        outputs = []
        for i in range(toy.length):
            own, before = block == block[i], block < block[i]
            if getattr(self.base, "head", "posterior") == "leave_one_out":
                own = own & (np.arange(toy.length) != i)
            joint = jnp.log(toy.p)[None] + here[..., own].sum(-1) + known[..., before].sum(-1)
            weights = jnp.exp(joint - joint.max(1, keepdims=True))
            outputs.append(jnp.log(weights @ toy.one_hot[:, i] / weights.sum(1, keepdims=True)))
        return jnp.stack(outputs, axis=1)

    def cache(self, rows, length):
        return jnp.zeros((rows, length), int)

    def decode(self, z, t, cache, start, span=None):
        """The cache is the text so far: filled up with z it is what a pass over all would be given."""
        whole = jax.lax.dynamic_update_slice_in_dim(cache, z, start, axis=1)
        size, length = z.shape[1], self.toy.length
        whole = jnp.minimum(whole[:, :length], self.base.num_states - 1)
        out = self(whole, jnp.broadcast_to(t, whole.shape), cache[:, :length])
        out = jnp.pad(out, ((0, 0), (0, size), (0, 0)))
        out = jax.lax.dynamic_slice_in_dim(out, start, size, axis=1)
        return out, jax.lax.dynamic_update_slice_in_dim(cache, z, start, axis=1)


BASES = {
    "mdlm": MDLM(3),
    "mdlm_steps": MDLM(3, MDLMCosine()),
    "udlm": UDLM(3),
    "sedd": SEDD(3, Absorbing(), Linear(), head="leave_one_out"),
    "d3pm": D3PM(3, Uniform(), num_steps=400),
}


def exact_bound(toy, process, monkeypatch):
    """(N,) the bound of every sequence: z enumerated, the same time in all blocks, that integrated by
    quadrature, or summed over a grid."""
    base, model = process.base, Exact(toy, process)
    z = jnp.asarray(toy.all_states(base))
    x0, drawn = jnp.repeat(toy.states, len(z), axis=0), jnp.tile(z, (len(toy.p), 1))
    monkeypatch.setattr(type(base), "corrupt", lambda *_: drawn)
    monkeypatch.setattr(
        BlockDiffusion, "uniforms", lambda self, u, length: jnp.broadcast_to(u, (len(u), length))
    )

    @jax.jit
    def at(u):
        loss = process.bound(jax.random.key(0), model, x0, jnp.full((len(x0), 1), u))
        q = toy.transition(base, z, base.time(jnp.full((len(z), 1), u)))
        return jnp.where(q > 0, q * loss.sum(1).reshape(q.shape), 0).sum(1)

    steps = getattr(base, "num_steps", None)
    if steps:
        return sum(at((k + 0.5) / steps) for k in range(steps)) / steps
    return sum(w * at(u) for u, w in zip(*quadrature(), strict=True))


@pytest.mark.representatives("mdlm-2", "mdlm_steps-2", "udlm-2", "sedd-1", "d3pm-2")
@pytest.mark.parametrize("size", [1, 2])  # 3 is the base
@pytest.mark.parametrize("name", BASES)
def test_bound_with_the_exact_denoiser_is_the_likelihood(name, size, toy, monkeypatch, x64):
    process = BlockDiffusion(BASES[name], block_length=size)
    if (
        name == "d3pm" and size > 1
    ):  # tokens of a block that are drawn apart cost something in few steps
        few, many = (
            toy.p
            @ exact_bound(
                toy, replace(process, base=replace(process.base, num_steps=T)), monkeypatch
            )
            for T in (4, 64)
        )
        entropy = toy.p @ toy.neg_logp
        assert entropy - 1e-9 < many and many - entropy < (few - entropy) / 4
        return
    np.testing.assert_allclose(exact_bound(toy, process, monkeypatch), toy.neg_logp, atol=1e-5)


@pytest.mark.representatives("cosine", "d3pm")
@pytest.mark.parametrize(
    "base",
    [MDLM(3), MDLM(3, Cosine()), MDLM(3, Polynomial(2.0), num_steps=7), D3PM(3, num_steps=5)],
    ids=["linear", "cosine", "polynomial-T7", "d3pm"],
)
def test_times_at_1_alone_are_one_step_a_block(base, toy):
    """Of one token it is the autoregressive likelihood of every sequence itself, whatever the draws; of
    more, that of tokens drawn apart given the blocks before."""
    x0, u = jnp.asarray(toy.states), jnp.linspace(0.01, 0.99, len(toy.p))[:, None]
    for size in (1, 2, 3):
        process = BlockDiffusion(base, block_length=size, clip=(1.0, 1.0))
        block, exact = np.arange(toy.length) // size, 0
        for i in range(toy.length):
            before = block < block[i]
            known = (toy.states[:, None, before] == toy.states[None, :, before]).all(-1)
            same = known & (toy.states[:, None, i] == toy.states[None, :, i])
            exact = exact - np.log(same @ toy.p / (known @ toy.p))
        if size == 1:
            np.testing.assert_allclose(exact, toy.neg_logp, rtol=1e-9)
        for method in (process.loss, process.bound):
            nats = jax.jit(lambda key, f=method, p=process: f(key, Exact(toy, p), x0, u))
            np.testing.assert_allclose(nats(jax.random.key(size)).sum(1), exact, rtol=2e-5)


def test_one_token_in_a_block_is_the_autoregressive_likelihood_of_any_network():
    """For a network without time the bound of each token is its cross entropy, whatever it says."""
    model = Transformer(
        vocab_size=5, num_layers=2, width=16, num_heads=2, block_length=1, dtype="float32"
    )
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(1), x.shape),
        model.init(jax.random.key(0)),
    )
    network, x0 = Network(model, params), jax.random.randint(jax.random.key(2), (1, 6), 0, 5)
    masked = jnp.full_like(x0, 5)
    ones = jnp.ones((1, 1))  # what is known of token i: the ones before
    out = jax.jit(network.__call__)(masked, ones, context=x0)
    exact = -jnp.take_along_axis(jax.nn.log_softmax(out), x0[..., None], axis=2)[..., 0]
    draws = 5_000
    process = BlockDiffusion(MDLM(5), block_length=1)
    rows, u = jnp.repeat(x0, draws, axis=0), ((jnp.arange(draws) + 0.5) / draws)[:, None]
    nats = jax.jit(lambda key: process.bound(key, network, rows, u))(jax.random.key(0))
    error = nats.std(0) / np.sqrt(draws)
    assert np.all(np.abs(nats.mean(0) - exact[0]) < 5 * error)


@pytest.mark.parametrize("length", [3, 8])  # the whole sequence, and more than it
def test_one_block_is_the_base_process(length, toy):
    base, process = MDLM(3), BlockDiffusion(MDLM(3), block_length=length)
    x0, u = jnp.asarray(toy.states), jnp.linspace(0.01, 0.99, len(toy.p))[:, None]
    alone = toy.denoiser(base)
    key = jax.random.key(0)
    blocks, whole = jax.jit(
        lambda: (
            process.bound(key, lambda z, t, context: alone(z, t), x0, u),
            base.bound(key, alone, x0, u),
        )
    )()
    np.testing.assert_allclose(blocks, whole, rtol=1e-6)


def test_blocks_have_one_time_each_and_every_block_has_all_times():
    process = BlockDiffusion(MDLM(3), block_length=2)
    u = ((jnp.arange(64) + 0.5) / 64)[:, None]
    times = np.asarray(process.uniforms(u, 7))
    assert times.shape == (64, 7) and times.min() > 0 and times.max() < 1
    np.testing.assert_array_equal(times[:, 0:6:2], times[:, 1:6:2])
    for block in range(4):
        np.testing.assert_allclose(np.sort(times[:, 2 * block]), u[:, 0], atol=1e-6)
    assert len(np.unique(times[0])) == 4


def test_clipped_times_enter_the_loss_and_not_the_bound():
    seen = []

    def model(z, t, context):
        seen.append(np.asarray(t))
        return jnp.zeros((*z.shape, 3))

    process = BlockDiffusion(MDLM(3), block_length=2, clip=(0.3, 0.8))
    x0, u = jnp.zeros((32, 4), int), ((jnp.arange(32) + 0.5) / 32)[:, None]
    process.loss(jax.random.key(0), model, x0, u)
    process.bound(jax.random.key(0), model, x0, u)
    assert 0.3 <= seen[0].min() < 0.32 and 0.78 < seen[0].max() <= 0.8
    assert seen[1].min() < 0.02 and seen[1].max() > 0.98


@pytest.mark.representatives("mdlm-2", "udlm-2")
@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["mdlm", "udlm"])
def test_distribution_of_the_samples_approaches_the_data(name, size, toy):
    process = BlockDiffusion(BASES[name], block_length=size)
    steps = 1 if name == "mdlm" and size == 1 else 32
    sampler = BlockByBlock(Ancestral(steps))
    draw = jax.jit(
        lambda key: sampler.sample(key, process, Exact(toy, process), (ROWS, toy.length))
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    assert_distribution(counts, toy.p, bias=0 if steps == 1 else 0.01)
    assert sampler.calls(process, toy.length) == -(-toy.length // size) * (steps + 1)


@pytest.mark.parametrize("nats", [0.0, 9.0])
def test_a_budget_of_entropy_within_blocks_decides_what_is_drawn_apart(nats, toy):
    """Without one, tokens that are not certain come one at a time: the data. With much, a block at once:
    its tokens by their marginals."""
    process, sampler = (
        BlockDiffusion(MDLM(3), block_length=2),
        BlockByBlock(Unmask("entropy", EntropyBudget(nats))),
    )
    sampled = jax.jit(
        lambda key: sampler.run(key, process, Exact(toy, process), (ROWS, toy.length))
    )(jax.random.key(0))
    p = np.asarray(toy.p).reshape(3, 3, 3)
    first = p.sum(2)
    apart = first.sum(1)[:, None] * first.sum(0)[None]
    expected = p if nats == 0 else apart[..., None] * p / first[..., None]
    counts = np.bincount(toy.index(sampled.x0), minlength=len(toy.p))
    assert_distribution(counts, expected.reshape(-1))
    # Each of two blocks has a call more that stores it; the second is cut to one of its places.
    assert (sampled.calls == (6 if nats == 0 else 4)).all()
    assert sampled.calls.max() <= sampler.calls(process, toy.length)


def test_network_samples_do_not_depend_on_their_neighbours_and_keep_the_prompt():
    model = Transformer(
        vocab_size=5, num_layers=2, width=16, num_heads=2, block_length=4, dtype="float32"
    )
    params = jax.tree.map(
        lambda x: x + 0.5 * jax.random.normal(jax.random.key(1), x.shape),
        model.init(jax.random.key(0)),
    )
    process, network = BlockDiffusion(MDLM(5), block_length=4), Network(model, params)
    keys = jax.random.split(jax.random.key(3), 5)
    given = jnp.full((5, 18), -1).at[:, :6].set(2)  # a block and a half; the last block is short

    @jax.jit
    def draw(keys, given):
        return BlockByBlock(Ancestral(4)).sample(keys, process, network, given.shape, given)

    x = draw(keys, given)
    assert x.shape == (5, 18) and (x[:, :6] == 2).all() and len(np.unique(x, axis=0)) == 5
    np.testing.assert_array_equal(draw(keys[1:3], given[1:3]), x[1:3])


@pytest.mark.parametrize(
    "wrong",
    [
        dict(block_length=0),
        dict(clip=(0.5, 0.5)),
        dict(clip=(0.0, 1.5)),
        dict(clip=(1.0, 1.0), base=UDLM(3)),
        dict(clip=(1.0, 1.0), base=SEDD(3)),
        dict(base=Autoregressive()),
        dict(base=DirichletFlow()),
    ],
)
def test_impossible_blocks_are_rejected(wrong):
    with pytest.raises(ValueError, match="BlockDiffusion"):
        BlockDiffusion(**wrong)
