"""Plaid's second input, and what a run of it needs of the rest of the program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.conditional import Clamped
from diffusion.gaussian import GivenEmbeddings, LearnedEmbeddings
from diffusion.log_snr import LinearLogSNR
from diffusion.model import at_positions, given
from diffusion.plaid import Plaid
from diffusion.self_conditioned import SelfConditioned
from experiments.config import Experiment
from experiments.data.tokenizers import Letters27
from experiments.overrides import load, override, resolve
from models.transformer import Transformer
from samplers.euler import Euler

V, D = 5, 4
PROCESS = Plaid(V, LearnedEmbeddings(D), LinearLogSNR(-2.0, 6.0))
MODEL = Transformer(V, 1, 16, 2, time_conditioning=True, condition_width=8, dtype="float32")
CHUNKED = replace(MODEL, vector_width=2 * D, chunked_head=True)
X0 = jnp.array([[0, 3, 1], [4, 4, 2], [1, 0, 0], [2, 3, 4]])


@pytest.fixture(scope="module")
def bound():
    """(experiment, its parameters), of a network whose head is not 0."""
    traits = PROCESS.traits
    experiment = Experiment(PROCESS, MODEL.for_process(None, traits.vector_width))
    params = experiment.init_params(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 100))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(next(keys), p.shape), params)
    return experiment, params


def test_the_network_reads_its_own_estimate_beside_the_state(bound):
    """Two passes over one state: the second reads the mean embedding of the first."""
    experiment, params = bound
    process, t = experiment.bind(params), jnp.full((4, 1), 0.4)
    z = process.corrupt(jax.random.key(2), X0, t)

    def plain(z, estimate):
        return MODEL.for_process(None, 2 * D).apply(
            params, jnp.concatenate([z, estimate], axis=-1), t
        )

    first = process.predict(plain(z, jnp.zeros_like(z)), z, t)
    estimate = jnp.einsum("blv,vd->bld", jnp.exp(first), process.embeddings)
    second = experiment.network(params)(z, t)
    np.testing.assert_allclose(second, plain(z, estimate), atol=1e-5)
    assert np.abs(second - plain(z, jnp.zeros_like(z))).max() > 1e-3


def test_some_rows_are_trained_with_an_estimate_and_no_gradient_goes_into_it(bound):
    process, t = PROCESS, jnp.full((400, 1), 0.5)
    z, seen = jnp.ones((400, 3, D)), []

    def model(both, t):
        seen.append(both)
        return both[..., :V] * jnp.arange(V)[None, None]

    gamma = process.schedule.gamma(t)
    wrapped = process.wrapped(model)
    process._conditioned(jax.random.key(0), wrapped, z, t, gamma)(z, t)
    assert not np.any(seen[0][..., D:])
    rows = np.asarray(seen[1][..., D:] != 0).any((1, 2))
    assert abs(rows.mean() - 0.25) < 4 * (0.25 * 0.75 / 400) ** 0.5

    def through(z):
        return process._conditioned(jax.random.key(0), wrapped, z, t, gamma)(z, t)[..., D:].sum()

    np.testing.assert_array_equal(jax.grad(through)(z)[..., 0], 0)


def test_loss_and_bound_of_chunks_and_of_known_tokens_are_those_of_the_whole(bound):
    """`at` and `given` of the wrapper: losses by positions, segments, known tokens shown clean."""
    experiment, params = bound
    process, t = experiment.bind(params), jnp.full((4, 1), 0.4)
    network = experiment.network(params)
    chunks = replace(network, model=replace(network.model, backbone=CHUNKED))
    z = process.corrupt(jax.random.key(2), X0, t)
    whole = process.token_loss(network(z, t), X0, z, t)
    np.testing.assert_allclose(
        at_positions(chunks, process.token_loss, None, X0, z, t), whole, rtol=1e-5
    )
    segments = jnp.array([[1, 1, 2]] * 4)
    apart = given(network, segments=segments)
    np.testing.assert_array_equal(apart.segments, segments)
    assert np.abs(apart(z, t) - network(z, t)).max() > 1e-4
    known = jnp.where(jnp.arange(3)[None] == 1, X0, -1)
    clean = Clamped(network, process.space, known)(z, t)
    np.testing.assert_allclose(clean, network(process.space.clamp(z, known), t), atol=1e-6)


CONFIG = "configs/sotu/plaid.py"


def test_the_config_resolves_with_every_ingredient_off_in_turn():
    base = load(CONFIG)
    for change, width in (
        ("process.self_conditioning=0", 16),
        ("process.head=posterior", 32),
        ("process.schedule=LinearLogSNR", 32),
        ("process.embedding.width=8", 16),
        ("process.schedule.learns_shape=False", 32),
    ):
        experiment = resolve(override(base, [change]), Letters27())
        assert experiment.model.vector_width == width
    given = override(base, ["process.embedding=GivenEmbeddings"])
    tokens = np.arange(27).repeat(3).astype(np.uint8)
    assert resolve(given, Letters27(), lambda: tokens).model.vector_width == 2 * 2 * 27


def test_what_does_not_fit_a_run_is_one_line(rejected):
    base = load(CONFIG)
    message = rejected(override, base, ["process.schedule.start=9.5"])
    assert "process.schedule.start=9.5" in message and "must rise" in message
    assert "float32" in rejected(override, base, ["process.schedule.end=99"])
    rows = GivenEmbeddings(((1.0, 0.0), (0.0, 1.0)))
    few = Experiment(Plaid(embedding=rows), Transformer(time_conditioning=True))
    assert "each of 27 tokens" in rejected(resolve, few, Letters27())
    with pytest.raises(ValueError, match="sampler Euler does not support process Plaid"):
        Experiment(Plaid(), Transformer(time_conditioning=True), sampler=Euler())


def test_a_wrapper_goes_around_the_network_alone_where_there_is_a_second_input():
    def network(z, t):
        return z

    assert isinstance(PROCESS.wrapped(network), SelfConditioned)
    assert Plaid(V, self_conditioning=0.0).wrapped(network) is network
