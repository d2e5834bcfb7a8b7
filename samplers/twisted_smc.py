"""Infilling by particles, for processes in which a clean token at time t is not what the network knows.

Where noise is not a mask, holding known tokens clean is no conditional distribution: their neighbours
take them for noisy. Here known positions carry noise as all others do, and a row is `particles` states.
Each is moved by ancestral steps in which the token of a known position is the known one, and weighed so
that together they follow the model's own chain, ended in the known tokens (twisted particle filter,
arXiv 2306.17775): with psi_t = prod over known i of p(x0^i = known | z_t), a step from t to s has weight

    psi_s / psi_t  prod over known i of p(z_s^i | z_t) / q(z_s^i | z_t, x0^i = known)

and the states are drawn anew by their weights, systematically, before they move on. At the end all weigh
the same, and one is the sample. The distribution approaches the model's conditional one as particles
grow; with one known token psi is exact and few are enough. A row costs as many times the network.

On the simplex this is for Bayesian flows. A step of a Dirichlet or linear path shows which token it was
drawn towards, so a path towards the known token all along is one that the model's chain hardly takes;
there a known token is a vertex of the simplex (`samplers.sampler`).
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

from diffusion.numerics import gather_last
from diffusion.process import TransitionProcess
from diffusion.random import categorical, fold_in, split, uniform
from samplers.modified_denoiser import processed
from samplers.sampler import Compatibility, Sampled, TimedSampler


@dataclass(frozen=True)
class TwistedSMC(TimedSampler):
    """`steps` calls of the network, each with `particles` states a row.

    particles: how many; more come nearer to the model's conditional distribution.
    """

    particles: int = 8
    weighs_known: ClassVar[bool] = True
    requires: ClassVar[type] = TransitionProcess
    lacking: ClassVar[str] = "the process does not give the probability of a step"

    def __post_init__(self):
        super().__post_init__()
        if self.particles < 1:
            raise ValueError(f"TwistedSMC.particles = {self.particles} must be at least 1")

    def compatibility(self, process):
        return self.unsupported(process) or Compatibility(
            "exact", "ancestral steps; known tokens in the limit of many particles"
        )

    def calls(self, process, length):
        return self.steps * self.particles

    def run(self, key, process: TransitionProcess, model, shape, known=None, trace=False):
        rows, count = shape[0], self.particles
        model = processed(self.logits_processor, process, model)
        fixed = jnp.zeros(shape, bool) if known is None else known >= 0
        token = jnp.where(fixed, 0 if known is None else known, 0)
        fixed_all, token_all = _repeat(fixed, count), _repeat(token, count)
        key_start, key_steps, key_one = split(key, 3)
        z = _merge(jax.vmap(lambda k: process.prior(k, shape))(split(key_start, count)))
        z = self.logits_processor.without_banned(z, process)
        times = self.times()

        def over_known(a):
            return jnp.where(fixed_all, a, 0).sum(1).reshape(count, rows)

        def body(carry, number):
            z, log_w, _ = carry
            t, s = (jnp.full((rows, 1), times[n]) for n in (number, number + 1))
            many_t, many_s = _repeat(t, count), _repeat(s, count)
            key_step, key_choice = split(fold_in(key_steps, number))
            log_p0 = process.predict(model(z, many_t), z, many_t)
            log_w = log_w + over_known(gather_last(log_p0, token_all))
            chosen = _systematic(key_choice, log_w)
            z, log_p0 = (_choose(a, chosen) for a in (z, log_p0))
            keys = split(key_step, 2 * count)
            x0 = _each(categorical, keys[:count], log_p0)
            x0 = jnp.where(fixed_all, token_all, x0)
            moved = _each(lambda k, x, z: process.bridge(k, x, z, t, s), keys[count:], x0, z)
            ratio = process.log_transition(log_p0, token_all, z, moved, many_t, many_s)
            log_w = over_known(ratio - gather_last(log_p0, token_all))
            return (moved, log_w, x0), None

        x0 = jnp.zeros((count * rows, shape[1]), jnp.int32)
        start = (z, jnp.zeros((count, rows)), x0)
        (_, _, x0), _ = jax.lax.scan(body, start, jnp.arange(self.steps))
        # Not the first: systematic resampling keeps the order of what it keeps.
        one = jnp.floor(uniform(key_one, (rows, 1)) * count).astype(jnp.int32)
        return Sampled(_choose(x0, one.T), jnp.full(rows, self.steps * count, jnp.int32))


def _systematic(key, log_w):
    """(K, B): for each row K particles, each as often as its weight says, up to one."""
    count, rows = log_w.shape
    # Where all are impossible they stay as they are.
    log_w = jnp.where(jnp.isneginf(log_w).all(0, keepdims=True), 0.0, log_w)
    share = jnp.cumsum(jax.nn.softmax(log_w, axis=0), axis=0)
    at = (uniform(key, (rows, 1))[:, 0][None] + jnp.arange(count)[:, None]) / count
    chosen = (share[None] < at[:, None]).sum(1)
    return jnp.minimum(chosen, count - 1)


def _repeat(a, count):
    """(K * B, ...): all rows K times, particle by particle."""
    return jnp.tile(a, (count,) + (1,) * (a.ndim - 1))


def _merge(a):
    return a.reshape(-1, *a.shape[2:])


def _each(f, keys, *arrays):
    """f of each particle's rows, with a key each."""
    count = keys.shape[0]
    apart = [a.reshape(count, -1, *a.shape[1:]) for a in arrays]
    return _merge(jax.vmap(f)(keys, *apart))


def _choose(a, chosen):
    """(N * B, ...): of each row the particles of the numbers chosen (N, B)."""
    rows = chosen.shape[1]
    return a[(chosen * rows + jnp.arange(rows)[None]).reshape(-1)]
