"""Guidance of discrete states against numbers of the official code of arXiv 2412.10193, in float64."""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import reference

from diffusion.markov import MarkovProcess
from diffusion.mdlm import MDLM
from diffusion.schedules import Linear
from diffusion.udlm import UDLM
from samplers.discrete_guidance import ByClassifier, MixedPosteriors
from samplers.guidance import classifier_free

LABEL = 1
# The official first order takes the gradient at a float32 state, and so has its rounding: half of this
# relative to each of two derivatives.
FLOAT32 = float(np.finfo(np.float32).eps)


class Group(NamedTuple):
    """A process, its networks with and without the label, and a state."""

    process: MarkovProcess
    conditional: np.ndarray
    unconditional: np.ndarray
    z: jax.Array

    @property
    def networks(self):
        """(conditional, unconditional): no column of the mask."""
        outs = (self.conditional, self.unconditional)
        return [
            lambda z, t, out=out: jnp.asarray(out)[..., : self.process.vocab_size] for out in outs
        ]


@pytest.fixture
def arrays(x64):
    return reference("udlm")


def groups(a):
    V = a["logits"].shape[-1]
    schedule = Linear(1e-3)  # of the official sampler
    return {
        "uniform": Group(UDLM(V, schedule), a["logits_cond"], a["logits"], jnp.asarray(a["xt"])),
        "absorb": Group(
            MDLM(V, schedule),
            a["mask_logits_cond"],
            a["mask_logits_uncond"],
            jnp.asarray(a["mask_xt"]),
        ),
    }


def cases(a, form):
    """(group, further names, key) of all keys of the form."""
    found = [(match, key) for key in a if (match := re.fullmatch(form, key))]
    all_groups = groups(a)
    assert {match[1] for match, _ in found} == set(all_groups)
    return [(all_groups[match[1]], *match.groups()[1:], key) for match, key in found]


def times(a):
    t = jnp.asarray(a["sampler_t"])[:, None]
    return t, t - a["sampler_dt"]


def classifier(a, name):
    """log p(label | state) as stored, of int states, or of one-hot ones in which it is not linear."""
    linear, inner = (jnp.asarray(a[f"cbg_{name}_{weights}"]) for weights in ("W", "W2"))

    def log_p_label(z, t):
        z = jax.nn.one_hot(z, linear.shape[1], dtype=t.dtype) if z.ndim == 2 else z
        out = jnp.einsum("bls,lsc->bc", z, linear) + jnp.tanh(jnp.einsum("bls,lsc->bc", z, inner))
        return jax.nn.log_softmax(out)[:, LABEL]

    return log_p_label


def test_classifier_free_steps_are_the_official_ones(arrays):
    """Posteriors over z_s are mixed where noise is uniform, and distributions of x0 where it is a
    mask."""
    (t, s), strengths = times(arrays), {}
    for group, strength, key in cases(arrays, r"cfg_([a-z]+)_g([\d.]+)"):
        process, z = group.process, group.z
        model = classifier_free(process, *group.networks, jnp.asarray(float(strength)))
        of_x0 = process.log_posterior(process.predict(model(z, t), z, t), z, t, s)
        mixed = MixedPosteriors(process, *group.networks, jnp.asarray(float(strength)))
        of_step = mixed.distributions(z, t, s)[0]
        masked = isinstance(process, MDLM)
        ours, other = (of_x0, of_step) if masked else (of_step, of_x0)
        np.testing.assert_allclose(jnp.exp(ours), arrays[key], rtol=1e-9, atol=1e-12, err_msg=key)
        strengths.setdefault(masked, set()).add(float(strength))
        if float(strength) not in (0, 1):
            assert np.abs(jnp.exp(other) - arrays[key]).max() > 1e-6, key
    assert all(some - {0, 1} for some in strengths.values())


def largest_slope(group, log_p_label, t):
    """Of log p(label) in a one-hot state."""
    onehot = jax.nn.one_hot(group.z, group.process.num_states, dtype=t.dtype)
    return float(jnp.abs(jax.grad(lambda z: log_p_label(z, t).sum())(onehot)).max())


@pytest.mark.parametrize("order", ["exact", "taylor"])
def test_log_probabilities_of_the_label_at_changed_states(arrays, order):
    t, _ = times(arrays)
    for group, key in cases(arrays, rf"cbg_([a-z]+)_clslogp_{order}"):
        log_p_label = classifier(arrays, key.split("_")[1])
        guidance = ByClassifier(group.process, None, log_p_label, 1.0, exact=order == "exact")
        values, expected = guidance.log_p_changed(group.z, t), arrays[key]
        if order == "exact":
            np.testing.assert_allclose(values, expected, rtol=1e-12, err_msg=key)
            continue
        slack = FLOAT32 * largest_slope(group, log_p_label, t)
        np.testing.assert_allclose(values, expected, rtol=1e-12, atol=slack, err_msg=key)


@pytest.mark.parametrize("order", ["exact", "taylor"])
def test_steps_guided_by_a_classifier_are_the_official_ones(arrays, order):
    (t, s), strengths = times(arrays), set()
    for group, strength, key in cases(arrays, rf"cbg_([a-z]+)_{order}_g([\d.]+)"):
        log_p_label = classifier(arrays, key.split("_")[1])
        guidance = ByClassifier(
            group.process, group.networks[1], log_p_label, float(strength), exact=order == "exact"
        )
        # What the official rounding moves in log p(label | z), `strength` times, moves log p and its
        # normaliser.
        moved = 2 * float(strength) * FLOAT32 * largest_slope(group, log_p_label, t)
        slack = 1e-9 if order == "exact" else 1e-9 + moved
        step, expected = jnp.exp(guidance.distributions(group.z, t, s)[0]), arrays[key]
        np.testing.assert_allclose(step, expected, rtol=slack, atol=1e-12, err_msg=key)
        strengths.add(float(strength))
    assert len(strengths) > 1
