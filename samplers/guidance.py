"""Guidance: a network bent towards a label; any sampler takes the result in the network's place.

The strength is that of the label in the score: 0 is the unconditional law, 1 the conditional one, more
exaggerates. On the simplex, where log q(z | x0 = v) = evidence log z_v + constant, the score of p_t(z)
along log z is evidence times p(x0 | z_t) and a part that no label changes. Hence both rules:

- classifier-free: adding scores, s = strength s_label + (1 - strength) s_free, is adding probabilities,
  p = strength p_label + (1 - strength) p_free. (Dirichlet flow matching, arXiv 2402.05841, offers them
  as two methods and solves a linear system for the first: the solution is the second.)
  "log_probability" mixes log p instead, as is usual for discrete states, and needs no projection;
- classifier: p = p_free + strength / evidence * z (g - sum_k z_k g_k), g = d log p(label | z) / dz: with
  the exact classifier and strength 1 this is exactly p(x0 | z_t, label).

Where the sum leaves the simplex it is projected onto it, which is no longer the score asked for.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.numerics import normalised
from diffusion.process import Model, Process
from diffusion.simplex import SimplexProcess, project
from samplers.bent import as_output

_IMPOSSIBLE = -1e9  # in place of log 0, whose differences are not numbers
_LEAST_EVIDENCE = (
    1e-2  # of the Dirichlet path near t = 1, where a learned gradient over it is noise
)


def classifier_free(
    process: Process,
    conditional: Model,
    unconditional: Model,
    strength: float | Array,
    space: Literal["probability", "log_probability"] = "probability",
) -> Model:
    """model(z, t) -> out (B, L, V) of a network with and without its label; two calls each time."""
    if space not in ("probability", "log_probability"):
        raise ValueError(f"space = {space!r} is neither 'probability' nor 'log_probability'")

    def model(z, t):
        log_p, log_free = (
            jnp.maximum(process.predict(network(z, t), z, t), _IMPOSSIBLE)
            for network in (conditional, unconditional)
        )
        if space == "log_probability":
            mixed = normalised(strength * log_p + (1 - strength) * log_free)
        else:
            p = strength * jnp.exp(log_p) + (1 - strength) * jnp.exp(log_free)
            mixed = jnp.log(project(p))
        return as_output(process, mixed, z, t)

    return model


def classifier(
    process: SimplexProcess,
    unconditional: Model,
    log_p_label: Callable[[Array, Array], Array],
    strength: float | Array,
) -> Model:
    """model(z, t) -> out (B, L, V), from log_p_label(z, t) (B,) of a classifier of noisy states."""

    def model(z, t):
        p = jnp.exp(process.predict(unconditional(z, t), z, t))
        gradient = jax.grad(lambda z: log_p_label(z, t).sum())(z)
        tangent = z * (gradient - jnp.sum(z * gradient, axis=-1, keepdims=True))
        evidence = jnp.maximum(process.evidence(t), _LEAST_EVIDENCE)[..., None]
        return as_output(process, jnp.log(project(p + strength / evidence * tangent)), z, t)

    return model
