"""Guidance on an enumerable toy with labels: strength 0 is the free distribution, 1 the conditional
one."""

import copy
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracle import Toy, assert_distribution

from diffusion.autoregressive import Autoregressive
from diffusion.bfn import BFN, PowerAccuracy
from diffusion.block import BlockDiffusion
from diffusion.dirichlet import DirichletFlow
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.sedd import SEDD
from diffusion.simplex import project
from diffusion.udlm import UDLM
from models.backbone import Network
from models.transformer import Transformer
from samplers.ancestral import Ancestral
from samplers.autoregressive import LeftToRight
from samplers.blocks import BlockByBlock
from samplers.guidance import classifier, classifier_free

ROWS = 10_000


class Labelled:
    """A toy with a label that depends on the sequence at random: p(label 1 | x0)."""

    def __init__(self):
        self.free = Toy.named()
        self.of = np.random.default_rng(0).uniform(0.05, 0.95, len(self.free.p))
        self.conditional = copy.copy(self.free)
        joint = self.free.p * self.of
        self.conditional.p = joint / joint.sum()

    def log_p_label(self, process):
        """The exact classifier of noisy states, (B,). Of a float state of a process on discrete states
        it reads log q of a mixture of them as the mean of log q."""

        def log_likelihoods(z, t):
            if z.ndim == 2 or not hasattr(process, "num_states"):
                return self.free.log_likelihoods(process, z, t)
            every = jnp.arange(process.num_states)[:, None] * jnp.ones((1, z.shape[1]), int)
            each = [self.free.log_likelihoods(process, every, time[None]) for time in t]
            return jnp.einsum("bls,bsnl->bnl", z, jnp.stack(each))

        def log_p(z, t):
            log_q = log_likelihoods(z, t).sum(-1) + jnp.log(self.free.p)[None]
            with_label = log_q + jnp.log(self.of)[None]
            return jax.nn.logsumexp(with_label, axis=1) - jax.nn.logsumexp(log_q, axis=1)

        return log_p


PROCESSES = {
    "dirichlet": DirichletFlow(3),
    "bfn": BFN(3, PowerAccuracy(3.0)),
    "dirichlet-leave_one_out": DirichletFlow(3, head="leave_one_out"),
    "bfn-leave_one_out": BFN(3, PowerAccuracy(3.0), head="leave_one_out"),
    "mdlm": MDLM(3),
    "udlm": UDLM(3),
    "sedd": SEDD(3),
    "sedd-scaled": SEDD(3, scaled=True),
    "sedd-uniform": SEDD(3, Uniform()),
}


def states(process, t):
    rng = np.random.default_rng(1)
    x0 = jnp.asarray(rng.integers(0, 3, (6, 3)))
    return process.corrupt(jax.random.key(0), x0, jnp.full((6, 1), t)), jnp.full((6, 1), t)


@pytest.mark.representatives("bfn", "mdlm", "sedd-uniform")
@pytest.mark.parametrize("space", ["probability", "log_probability"])
@pytest.mark.parametrize("name", PROCESSES)
def test_classifier_free_strength_0_is_free_and_1_conditional(name, space, x64):
    toy, process = Labelled(), PROCESSES[name]
    free, conditional = toy.free.denoiser(process), toy.conditional.denoiser(process)
    for t in (0.3, 0.8):
        z, time = states(process, t)
        results = {}
        for strength in (0.0, 1.0, 1.7):
            model = classifier_free(process, conditional, free, jnp.asarray(strength), space)
            assert not np.isnan(model(z, time)).any()
            results[strength] = np.exp(process.predict(model(z, time), z, time))
        for strength, exact in ((0.0, free), (1.0, conditional)):
            expected = np.exp(process.predict(exact(z, time), z, time))
            np.testing.assert_allclose(results[strength], expected, atol=1e-9)
        assert np.abs(results[1.7] - results[1.0]).max() > 1e-3
        np.testing.assert_allclose(results[1.7].sum(-1), 1, rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in PROCESSES if n[0] in "db"])
def test_gradient_of_the_exact_classifier_makes_the_conditional_distribution_exactly(name, x64):
    toy, process = Labelled(), PROCESSES[name]
    free, conditional = toy.free.denoiser(process), toy.conditional.denoiser(process)
    for t in (0.2, 0.6, 0.9):
        z, time = states(process, t)
        model = classifier(process, free, toy.log_p_label(process), 1.0)
        expected = np.exp(process.predict(conditional(z, time), z, time))
        guided = np.exp(process.predict(model(z, time), z, time))
        np.testing.assert_allclose(guided, expected, atol=1e-7)
        unguided = classifier(process, free, toy.log_p_label(process), 0.0)
        np.testing.assert_allclose(
            np.exp(process.predict(unguided(z, time), z, time)),
            np.exp(process.predict(free(z, time), z, time)),
            atol=1e-9,
        )


def test_a_gradient_acts_within_its_interval_of_times_row_by_row(x64):
    toy, process = Labelled(), BFN(3, PowerAccuracy(3.0))
    free, log_p_label = toy.free.denoiser(process), toy.log_p_label(process)
    z, _ = states(process, 0.5)
    t = jnp.linspace(0.1, 0.9, len(z))[:, None]
    always, limited = (
        np.asarray(classifier(process, free, log_p_label, 1.7, interval)(z, t))
        for interval in ((0.0, 1.0), (0.3, 0.7))
    )
    acts = np.asarray((t >= 0.3) & (t <= 0.7))[..., None]
    assert acts.any() and not acts.all() and np.abs(always - free(z, t)).max() > 0.01
    np.testing.assert_allclose(limited, np.where(acts, always, free(z, t)), rtol=1e-9, atol=1e-9)


@pytest.mark.representatives("classifier-bfn", "classifier-free-dirichlet")
@pytest.mark.parametrize("name", ["dirichlet", "bfn"])
@pytest.mark.parametrize("kind", ["classifier", "classifier-free"])
@pytest.mark.usefixtures("optimized")
def test_samples_with_strength_1_follow_the_conditional_distribution(name, kind):
    toy, process = Labelled(), PROCESSES[name]
    free = toy.free.denoiser(process)
    if kind == "classifier":
        model = classifier(process, free, toy.log_p_label(process), 1.0)
    else:
        model = classifier_free(process, toy.conditional.denoiser(process), free, 1.0)
    draw = jax.jit(lambda key: Ancestral(48).sample(key, process, model, (ROWS, 3)))
    counts = np.bincount(toy.free.index(draw(jax.random.key(0))), minlength=len(toy.free.p))
    assert_distribution(counts, toy.conditional.p, bias=0.01)
    assert np.abs(counts / ROWS - toy.free.p).sum() > 0.1


def test_projection_is_the_nearest_point_of_the_simplex():
    rng = np.random.default_rng(0)
    p = rng.normal(size=(50, 4)).astype(np.float32)
    nearest = np.asarray(project(jnp.asarray(p)))
    assert nearest.min() >= 0 and np.abs(nearest.sum(-1) - 1).max() < 1e-5
    others = rng.dirichlet(np.full(4, 0.3), (50, 500))
    distance = ((others - p[:, None]) ** 2).sum(-1).min(1)
    assert (((nearest - p) ** 2).sum(-1) <= distance + 1e-5).all()
    inside = jnp.asarray(rng.dirichlet(np.ones(4), 10), jnp.float32)
    np.testing.assert_allclose(project(inside), inside, atol=1e-6)


@pytest.mark.parametrize(
    "name, space",
    [("udlm", "log_probability"), ("mdlm", "log_probability"), ("bfn", "probability")],
)
def test_discrete_states_mix_logarithms_by_default_and_the_simplex_probabilities(name, space):
    toy, process = Labelled(), PROCESSES[name]
    networks = toy.conditional.denoiser(process), toy.free.denoiser(process)
    z, t = states(process, 0.5)
    model, as_named = (classifier_free(process, *networks, 1.7, *more) for more in ((), (space,)))
    np.testing.assert_array_equal(model(z, t), as_named(z, t))


@pytest.mark.parametrize("name", ["udlm", "mdlm", "sedd-uniform", "dirichlet"])
def test_guidance_acts_within_its_interval_of_times_row_by_row(name, x64):
    toy, process = Labelled(), PROCESSES[name]
    conditional, free = toy.conditional.denoiser(process), toy.free.denoiser(process)
    z, _ = states(process, 0.5)
    t = jnp.linspace(0.1, 0.9, len(z))[:, None]

    def out(interval, t):
        return np.asarray(classifier_free(process, conditional, free, 1.7, interval=interval)(z, t))

    unlimited = np.asarray(classifier_free(process, conditional, free, 1.7)(z, t))
    np.testing.assert_array_equal(out((0.0, 1.0), t), unlimited)
    # Within a branch of the program the same numbers are rounded differently.
    same = partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    same(out((1e-6, 1.0), t), unlimited)
    alone = np.asarray(conditional(z, t))
    np.testing.assert_array_equal(out((0.0, 0.0), t), alone)
    acts = np.asarray((t >= 0.3) & (t <= 0.7))[..., None]
    assert acts.any() and not acts.all()
    limited = out((0.3, 0.7), t)
    same(limited, np.where(acts, unlimited, alone))
    np.testing.assert_array_equal(limited[~acts[:, 0, 0]], alone[~acts[:, 0, 0]])


def test_times_of_positions_are_inside_or_not_one_by_one(x64):
    toy, process = Labelled(), PROCESSES["udlm"]
    networks = toy.conditional.denoiser(process), toy.free.denoiser(process)
    z, _ = states(process, 0.5)
    t = jnp.broadcast_to(jnp.array([0.2, 0.5, 0.8]), z.shape)
    out = classifier_free(process, *networks, 1.7, interval=(0.4, 1.0))(z, t)
    unlimited = classifier_free(process, *networks, 1.7)(z, t)
    np.testing.assert_array_equal(out[:, :1], networks[0](z, t)[:, :1])
    np.testing.assert_allclose(out[:, 1:], unlimited[:, 1:], rtol=1e-9, atol=1e-9)


def test_the_other_network_is_called_only_where_guidance_acts():
    toy, process, calls = Labelled(), MDLM(3), []
    free = toy.free.denoiser(process)

    def counted(z, t):
        jax.debug.callback(lambda: calls.append(1))
        return free(z, t)

    def sample(strength, interval):
        calls.clear()
        model = classifier_free(
            process, toy.conditional.denoiser(process), counted, strength, interval=interval
        )
        run = jax.jit(lambda key: Ancestral(8).sample(key, process, model, (5, 3)))
        run(jax.random.key(0)).block_until_ready()
        jax.effects_barrier()
        return len(calls)

    # The sampler asks at t = 1, 7/8 .. 1/8.
    assert sample(2.0, (0.3, 0.7)) == 3 and sample(2.0, (0.0, 1.0)) == 8
    assert sample(1.0, (0.0, 1.0)) == 0


LABELS = Transformer(
    5,
    num_layers=1,
    width=16,
    num_heads=2,
    condition_width=8,
    time_conditioning=True,
    num_labels=2,
    dtype="float32",
)


@pytest.mark.representatives("process0")
@pytest.mark.parametrize(
    "process, sampler",
    [(BlockDiffusion(MDLM(5), 2), BlockByBlock(Ancestral(2))), (Autoregressive(5), LeftToRight())],
)
def test_samplers_with_caches_take_a_guided_network(process, sampler):
    model, shape = replace(LABELS, block_length=process.traits.attention_block), (64, 4)
    leaves, tree = jax.tree.flatten(model.init(jax.random.key(0)))
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    conditional, free = (
        Network(model, tree.unflatten(noisy), {"label": jnp.full(shape[0], label)})
        for label in (0, model.num_labels)
    )

    @partial(jax.jit, static_argnames="cached")
    def guided(strength, cached=True):
        network = classifier_free(process, conditional, free, strength)
        with_cache = sampler if cached else replace(sampler, cached=False)
        return with_cache.sample(jax.random.key(2), process, network, shape)

    def other_rows(x, y):
        return float((x != y).any(1).mean())

    # The same up to rounding, by which a draw seldom changes.
    of_label, of_none = (
        jax.jit(lambda n=n: sampler.sample(jax.random.key(2), process, n, shape))()
        for n in (conditional, free)
    )
    assert other_rows(guided(1.0), of_label) < 0.05 and other_rows(guided(0.0), of_none) < 0.05
    strong = guided(4.0)
    assert min(other_rows(strong, x) for x in (of_label, of_none)) > 0.2
    assert other_rows(of_label, of_none) > 0.2
    if isinstance(sampler, LeftToRight):
        assert other_rows(strong, guided(4.0, cached=False)) < 0.05


@pytest.mark.parametrize(
    "wrong, word",
    [
        (dict(space="score"), "space"),
        (dict(interval=(0.5, 0.2)), "interval"),
        (dict(interval=(0.0, 2.0)), "interval"),
    ],
)
def test_impossible_guidance_is_rejected(wrong, word):
    with pytest.raises(ValueError, match=word):
        classifier_free(MDLM(3), None, None, 2.0, **wrong)
