"""Guidance on an enumerable toy with labels: strength 0 is the free law, 1 the conditional one."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference
from oracle import Toy, assert_law

from diffusion.bfn import BFN, PowerAccuracy
from diffusion.dirichlet import DirichletFlow
from diffusion.kernels import Uniform
from diffusion.mdlm import MDLM
from diffusion.sedd import SEDD
from diffusion.simplex import project
from diffusion.udlm import UDLM
from samplers.ancestral import Ancestral
from samplers.guidance import classifier, classifier_free

ROWS = 10_000


class Labelled:
    """A toy with a label that depends on the sequence at random: p(label 1 | x0)."""

    def __init__(self):
        self.free = Toy(reference("toy_V3L3"))
        self.of = np.random.default_rng(0).uniform(0.05, 0.95, len(self.free.p))
        self.conditional = copy.copy(self.free)
        joint = self.free.p * self.of
        self.conditional.p = joint / joint.sum()

    def log_p_label(self, process):
        """The exact classifier of noisy states, (B,)."""

        def log_p(z, t):
            log_q = self.free.log_likelihoods(process, z, t).sum(-1) + jnp.log(self.free.p)[None]
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


@pytest.mark.parametrize("space", ["probability", "log_probability"])
@pytest.mark.parametrize("name", PROCESSES)
def test_classifier_free_strength_0_is_free_and_1_conditional(name, space, x64):
    toy, process = Labelled(), PROCESSES[name]
    free, conditional = toy.free.denoiser(process), toy.conditional.denoiser(process)
    for t in (0.3, 0.8):
        z, time = states(process, t)
        results = {}
        for strength in (0.0, 1.0, 1.7):
            model = classifier_free(process, conditional, free, strength, space)
            assert not np.isnan(model(z, time)).any()
            results[strength] = np.exp(process.predict(model(z, time), z, time))
        for strength, exact in ((0.0, free), (1.0, conditional)):
            expected = np.exp(process.predict(exact(z, time), z, time))
            np.testing.assert_allclose(results[strength], expected, atol=1e-9)
        assert np.abs(results[1.7] - results[1.0]).max() > 1e-3
        np.testing.assert_allclose(results[1.7].sum(-1), 1, rtol=1e-9)


@pytest.mark.parametrize("name", [n for n in PROCESSES if n[0] in "db"])
def test_gradient_of_the_exact_classifier_makes_the_conditional_law_exactly(name, x64):
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


@pytest.mark.parametrize("name", ["dirichlet", "bfn"])
@pytest.mark.parametrize("kind", ["classifier", "classifier-free"])
def test_samples_with_strength_1_follow_the_conditional_law(name, kind):
    toy, process = Labelled(), PROCESSES[name]
    free = toy.free.denoiser(process)
    if kind == "classifier":
        model = classifier(process, free, toy.log_p_label(process), 1.0)
    else:
        model = classifier_free(process, toy.conditional.denoiser(process), free, 1.0)
    draw = jax.jit(lambda key: Ancestral(48).sample(key, process, model, (ROWS, 3)))
    counts = np.bincount(toy.free.index(draw(jax.random.key(0))), minlength=len(toy.free.p))
    assert_law(counts, toy.conditional.p, bias=0.01)
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


def test_unknown_space_is_refused():
    with pytest.raises(ValueError, match="space"):
        classifier_free(MDLM(3), None, None, 1.0, space="score")
