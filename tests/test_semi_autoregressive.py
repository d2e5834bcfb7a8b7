"""Block after block of a masked model on the whole text, with keys and values computed or held."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution

from diffusion.kernels import Absorbing
from diffusion.mdlm import MDLM
from diffusion.sedd import SEDD
from models.backbone import Network
from models.transformer import Transformer
from samplers.semi_autoregressive import SemiAutoregressive
from samplers.twisted_smc import TwistedSMC
from samplers.unmask import Tokens, Unmask

V, L = 5, 14
ROWS = 10_000


@pytest.mark.parametrize("process", [MDLM(3), SEDD(3, Absorbing())], ids=["mdlm", "score"])
def test_one_token_a_call_gives_the_data_with_a_last_block_that_is_cut(process):
    toy, sampler = Toy.named(), SemiAutoregressive(Unmask("confidence", Tokens(1)), block_length=2)
    seen = []
    exact = toy.denoiser(process)

    def model(z, t):
        jax.debug.callback(lambda z, t: seen.append((np.asarray(z), np.asarray(t))), z[:50], t[:50])
        return exact(z, t)

    sampled = jax.jit(lambda key: sampler.run(key, process, model, (ROWS, 3)))(jax.random.key(0))
    jax.effects_barrier()
    counts = np.bincount(toy.index(sampled.x0), minlength=len(toy.p))
    assert_distribution(counts, toy.p)
    assert (sampled.calls == 3).mean() > 0.99  # SEDD's prior has a token here and there
    for z, t in seen:  # the whole text, at the time at which as much is masked in the mean
        assert z.shape == (50, 3)
        np.testing.assert_allclose(t, (z == 3).mean(1, keepdims=True), atol=1e-3)
    masked = sorted({tuple((z == 3).sum(0) > 0) for z, _ in seen})
    assert (False, False, True) in masked and (True, True, False) not in masked


def network(**settings):
    model = Transformer(V, width=8, num_heads=1, dtype="float32", **settings)
    params = jax.tree.map(
        lambda x: x + 0.5 * jax.random.normal(jax.random.key(1), x.shape),
        model.init(jax.random.key(0)),
    )
    return Network(model, params)


@pytest.mark.representatives("4-True")
@pytest.mark.parametrize("fresh, shifted", [(4, True), (7, False), (L, False)])
def test_what_is_held_is_exact_where_nothing_of_it_changes(fresh, shifted):
    """In one layer keys and values are of a position alone; where all is fresh, nothing is held."""
    process, keys = MDLM(V), jax.random.split(jax.random.key(1), 3)
    known = jnp.full((3, L), -1).at[0, :5].set(2).at[1, :].set(3).at[1, 9:12].set(-1)
    exact = SemiAutoregressive(Unmask("drawn", Tokens(2)), block_length=4)
    held = replace(exact, fresh=fresh)
    networks = [network(num_layers=n, shifted=shifted) for n in (1, 2)]

    def error(of):
        """Of what the second block is said to be once two of its tokens stand."""
        z, t = jnp.full((3, L), V).at[:, :4].set(jnp.arange(4)[None]), jnp.zeros((3, 1))
        now, start = z.at[:, 4:6].set(1), max(0, min(3, L - fresh - 1))
        cache = of.decode(z, t, of.cache(3, L), 0, None, True)[1]
        out = of.decode(now[:, start : start + fresh + 1], t, cache, start, None, True)[0]
        return jnp.abs(out[:, 4 - start : 8 - start] - of(now, t)[:, 4:8]).max()

    @jax.jit
    def drawn(keys, known):
        runs = (way.run(keys, process, networks[0], known.shape, known) for way in (exact, held))
        return *runs, [error(of) for of in networks]

    want, got, errors = drawn(keys, known)
    np.testing.assert_array_equal(got.x0, want.x0)
    assert ((got.x0 == known) | (known < 0)).all() and got.x0.max() < V
    # Block by block a call for what is held; of rows that have nothing to draw in a block, no other.
    np.testing.assert_array_equal(got.calls, want.calls + 4)
    assert held.calls(process, L) == 4 * 3 >= got.calls.max()
    assert errors[0] < 1e-4 and (errors[1] < 1e-4 if fresh == L else errors[1] > 1e-2)


def test_held_keys_see_their_own_segment_alone():
    of = network(num_layers=2)
    z = jax.random.randint(jax.random.key(2), (2, 9), 0, V)
    given = of.given(segments=jnp.ones((2, 9), int).at[1, 6:].set(0))
    t = jnp.zeros((2, 1))

    @jax.jit
    def outs(z):
        out, cache = given.decode(z, t, given.cache(2, 9), 0, None, True)
        part = given.decode(z[:, 2:5], t, cache, 2, None, True)[0]
        return given(z, t), out, part, of(z[1:, :6], t[1:])

    want, out, part, alone = outs(z)
    np.testing.assert_allclose(out, want, atol=1e-4)
    np.testing.assert_allclose(part, want[:, 2:5], atol=1e-4)
    np.testing.assert_allclose(part[1], alone[0, 2:5], atol=1e-4)


def test_what_cannot_be_is_rejected():
    with pytest.raises(ValueError, match=r"fresh = 3 must be at least block_length = 32"):
        SemiAutoregressive(fresh=3)
    with pytest.raises(ValueError, match=r"block_length = 0 must be at least 1"):
        SemiAutoregressive(block_length=0)
    of_texts = SemiAutoregressive(TwistedSMC()).compatibility(MDLM(V))
    assert of_texts.kind == "unsupported" and "weighs whole texts" in of_texts.why
