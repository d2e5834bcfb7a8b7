"""State spaces, and a process whose states are vectors, through the sampling loop."""

from dataclasses import dataclass, replace
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution

from diffusion.numerics import gather_last, log_softmax
from diffusion.process import Process, Traits
from diffusion.random import normal
from diffusion.spaces import Simplex, Tokens, Vectors
from experiments.config import Experiment
from models.backbone import Network
from models.transformer import Transformer
from samplers.ancestral import Ancestral

V, L, D = 3, 3, 2
EMBEDDINGS = jnp.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])


@dataclass(frozen=True)
class Gaussian(Process):
    """z_t = sqrt(1 - t) e(x0) + sqrt(t) noise, with embeddings e that are given: a toy."""

    vocab_size: int | None = V
    states: ClassVar[str] = "vectors"
    traits: ClassVar[Traits] = Traits(vector_width=D)

    @property
    def space(self):
        return Vectors(EMBEDDINGS)

    def prior(self, key, shape):
        return normal(key, (*shape, D))

    def corrupt(self, key, x0, t):
        t = t[..., None]
        return jnp.sqrt(1 - t) * self.space.pure(x0) + jnp.sqrt(t) * normal(key, (*x0.shape, D))

    def predict(self, out, z, t):
        return log_softmax(out)

    def token_loss(self, out, x0, z, t):
        return -gather_last(self.predict(out, z, t), x0)

    def log_likelihood(self, z, t):
        gap = z[..., None, :] - jnp.sqrt(1 - t)[..., None, None] * EMBEDDINGS[None, None]
        return -(gap**2).sum(-1) / (2 * jnp.maximum(t, 1e-9)[..., None])

    def bridge(self, key, x0, z, t, s):
        """q(z_s | z_t, x0) of the chain z_t = kept z_s + noise of variance 1 - kept^2."""
        t, s = t[..., None], s[..., None]
        kept = jnp.sqrt((1 - t) / (1 - s))
        mean = kept * s / t * z + jnp.sqrt(1 - s) * (1 - kept**2) / t * self.space.pure(x0)
        return mean + jnp.sqrt(s * (1 - kept**2) / t) * normal(key, z.shape)


SPACES = {
    "tokens": (Tokens(V, V), jnp.array([[0, 2, 1]])),
    "masked": (Tokens(V, V + 1), jnp.array([[0, V, 1]])),
    "simplex": (Simplex(V), jnp.array([[[0.7, 0.2, 0.1], [0, 0, 1.0], [0.3, 0.6, 0.1]]])),
    "vectors": (Vectors(EMBEDDINGS), EMBEDDINGS[jnp.array([[0, 2, 1]])] + 0.1),
}


@pytest.mark.parametrize("name", SPACES)
def test_known_tokens_are_put_into_a_state_and_read_back(name):
    space, z = SPACES[name]
    assert space.empty((1, L)).shape == z.shape and space.empty((1, L)).dtype == z.dtype
    clamped = space.clamp(z, jnp.array([[-1, 1, -1]]))
    assert space.tokens(clamped)[0].tolist() == [0, 1, 1]
    assert (space.distance(clamped, z) > 0).tolist() == [[False, True, False]]
    np.testing.assert_array_equal(space.tokens(space.pure(jnp.array([[2, 1, 0]]))), [[2, 1, 0]])
    assert space.clamp(z, None) is z


def test_weights_of_tokens_are_those_that_stand_there():
    for name, expected in (("tokens", [1, 1, 1]), ("masked", [1, 0, 1]), ("vectors", [1, 1, 1])):
        space, z = SPACES[name]
        np.testing.assert_array_equal(space.weights(z).sum(-1)[0], expected)
    space, z = SPACES["simplex"]
    assert space.weights(z) is z


@pytest.fixture(scope="module")
def toy():
    return Toy.named()


def test_the_loop_samples_the_data_from_vectors_with_the_exact_denoiser(toy):
    process = Gaussian()
    rows, known = 4000, jnp.full((4000, L), -1)
    for given, p in (
        (None, toy.p),
        (known.at[:, 0].set(1), np.where(toy.states[:, 0] == 1, toy.p, 0)),
    ):
        # A known token stands clean in the state: exact here, since its likelihood is then certain.
        run = jax.jit(
            lambda key, given=given: Ancestral(64).run(
                key, process, toy.denoiser(process), (rows, L), given, trace=given is not None
            )
        )(jax.random.key(0))
        counts = np.bincount(toy.index(run.x0), minlength=len(p))
        assert_distribution(counts, p / p.sum(), bias=0.02)
    assert run.frames.tokens.shape == (65, rows, L)
    np.testing.assert_array_equal(run.frames.tokens[-1], run.x0)
    np.testing.assert_array_equal(run.frames.tokens[:, :, 0], 1)


MODEL = Transformer(V, 1, 8, 2)


def test_a_network_reads_vectors_of_its_width_and_rejects_others():
    model = MODEL.for_process(None, D)
    network = Network(model, model.init(jax.random.key(0)))
    z, t = jnp.ones((2, L, D)), jnp.ones((2, 1))
    assert network(z, t).shape == (2, L, V)
    assert jax.grad(lambda z: network.backbone.features(network.params, z, t).sum())(z).any()
    with pytest.raises(
        ValueError, match="width 3, and the network was made for vectors of width 2"
    ):
        network(jnp.ones((2, L, 3)), t)


def test_without_a_width_only_weights_of_tokens_are_taken():
    network = Network(MODEL, MODEL.init(jax.random.key(0)))
    for width in (V, V + 1):
        assert network(jnp.ones((2, L, width)), jnp.ones((2, 1))).shape == (2, L, V)
    for width in (1, D, V + 2):
        with pytest.raises(ValueError, match=f"width {width} is neither weights of the 3 tokens"):
            network(jnp.ones((2, L, width)), jnp.ones((2, 1)))


def test_an_experiment_rejects_a_backbone_that_takes_no_vectors():
    class TokensOnly(Transformer):
        inputs = ("tokens",)

    Experiment(Gaussian(), MODEL)
    with pytest.raises(ValueError, match="states of Gaussian are vectors"):
        Experiment(Gaussian(), replace(TokensOnly(V, 1, 8, 2)))
