"""Block diffusion on toys: its bound, its law, and its two ends, one token and the whole sequence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference
from oracle import FLOOR, Toy, assert_law

from diffusion.autoregressive import Autoregressive
from diffusion.block import BlockDiffusion
from diffusion.d3pm import D3PM
from diffusion.dirichlet import DirichletFlow
from diffusion.kernels import Absorbing, Uniform
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear, MDLMCosine
from diffusion.sedd import SEDD
from diffusion.udlm import UDLM
from models.backbone import Network
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.blocks import BlockByBlock

ROWS = 10_000


@pytest.fixture(scope="module")
def toy():
    return Toy(reference("toy_V3L3"))


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


def mean_bound(toy, process, model, draws, seed=0):
    """(N,) means over `draws` stratified times of each sequence, and their standard errors."""

    @jax.jit
    def values(key):
        rows = jnp.repeat(toy.states, draws, axis=0)
        u = jnp.tile((jnp.arange(draws) + 0.5) / draws, len(toy.p))[:, None]
        return process.bound(key, model, rows, u).sum(1).reshape(-1, draws)

    nats = np.asarray(values(jax.random.key(seed)), np.float64)
    return nats.mean(1), nats.std(1) / np.sqrt(draws)


@pytest.mark.parametrize("size", [1, 2])  # 3 is the base
@pytest.mark.parametrize("name", BASES)
def test_bound_with_the_exact_denoiser_is_the_likelihood(name, size, toy):
    process = BlockDiffusion(BASES[name], block_length=size)
    mean, error = mean_bound(toy, process, Exact(toy, process), 1000)
    slack = 0.02 if name == "d3pm" else 0  # of 400 steps
    assert np.all(np.abs(mean - toy.neg_logp) < 5 * error + slack + 1e-3)


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


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("name", ["mdlm", "udlm"])
def test_law_of_the_samples_approaches_the_data(name, size, toy):
    process = BlockDiffusion(BASES[name], block_length=size)
    steps = 1 if name == "mdlm" and size == 1 else 32
    sampler = BlockByBlock(Ancestral(steps))
    draw = jax.jit(
        lambda key: sampler.sample(key, process, Exact(toy, process), (ROWS, toy.length))
    )
    counts = np.bincount(toy.index(draw(jax.random.key(0))), minlength=len(toy.p))
    assert_law(counts, toy.p, bias=0 if steps == 1 else 0.01)
    assert sampler.calls(process, toy.length) == -(-toy.length // size) * (steps + 1)


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
        dict(base=Autoregressive()),
        dict(base=DirichletFlow()),
    ],
)
def test_impossible_blocks_are_refused(wrong):
    with pytest.raises(ValueError, match="BlockDiffusion"):
        BlockDiffusion(**wrong)
