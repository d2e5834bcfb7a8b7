"""Infilling by particles, for processes in which a clean token at time t is not what the network knows.

Where noise is not a mask, holding given tokens clean is no conditional law: their neighbours take them
for noisy. Here given positions carry noise as in training, z_1 ... z_0 drawn from q given their tokens,
and a row is `particles` states that share them. Each step is ancestral; a particle then weighs

    prod over given i of p(z_s^i | z_t),

what its state gives to the noise that the given tokens really have, and the particles are drawn anew by
their weights. One of the last ones is the sample. With the exact denoiser and small steps the law
approaches the conditional one as particles grow (SMCDiff, arXiv 2206.04119; with one particle it is what
is known as replacement). A row costs as many times the network.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from diffusion.random import categorical, fold_in, split
from samplers.ancestral import Ancestral
from samplers.sampler import Sampled, Verdict


@dataclass(frozen=True)
class Resampled(Ancestral):
    """`steps` calls of the network, each of `particles` states a row."""

    particles: int = 8

    def __post_init__(self):
        super().__post_init__()
        if self.particles < 1 or self.cached:
            raise ValueError(
                f"Resampled.particles = {self.particles} must be at least 1, with cached = False"
            )

    def verdict(self, process):
        if not hasattr(process, "log_transition"):
            return Verdict("refused", "the process does not give the probability of a step")
        return super().verdict(process)

    def calls(self, process, length):
        return self.steps * self.particles

    def run(self, key, process, model, shape, given=None, trace=False, start=None):
        if trace:
            raise ValueError("Resampled keeps no frames")
        rows, count = shape[0], self.particles
        model = self.bend(process, model)
        fixed = jnp.zeros(shape, bool) if given is None else given >= 0
        token = jnp.where(fixed, 0 if given is None else given, 0)
        key_start, key_given, key_steps = split(key, 3)
        z = _merge(jax.vmap(lambda k: process.prior(k, shape))(split(key_start, count)))
        of_given = process.corrupt(key_given, token, jnp.ones((rows, 1)))
        times = self.times()

        def held(z, of_given):
            mask = _repeat(fixed if z.ndim == 2 else fixed[..., None], count)
            return jnp.where(mask, _repeat(of_given, count), z)

        def body(carry, number):
            z, of_given, _ = carry
            key_step, key_noise, key_pick = split(fold_in(key_steps, number), 3)
            t, s = (jnp.full((rows, 1), times[n]) for n in (number, number + 1))
            many_t, many_s = _repeat(t, count), _repeat(s, count)
            log_p0 = process.predict(model(z, many_t), z, many_t)
            keys = split(key_step, 2 * count)
            x0 = _each(lambda k, p: categorical(k, p), keys[:count], log_p0)
            moved = _each(lambda k, x, z: process.bridge(k, x, z, t, s), keys[count:], x0, z)
            new_given = process.bridge(key_noise, token, of_given, t, s)
            moved = held(moved, new_given)
            weigh = process.log_transition(log_p0, _repeat(token, count), z, moved, many_t, many_s)
            at_end = jnp.take_along_axis(log_p0, _repeat(token, count)[..., None], -1)[..., 0]
            weigh = jnp.where(many_s > 0, weigh, at_end)
            log_w = jnp.where(_repeat(fixed, count), weigh, 0).sum(1).reshape(count, rows)
            # All particles impossible: keep them as they are.
            log_w = jnp.where(jnp.isneginf(log_w).all(0), 0.0, log_w)
            chosen = categorical(key_pick, jnp.broadcast_to(log_w.T[:, None], (rows, count, count)))
            moved, x0 = (_choose(a, chosen, count) for a in (moved, x0))
            return (moved, new_given, x0), None

        x0 = jnp.zeros((count * rows, shape[1]), jnp.int32)
        (_, _, x0), _ = jax.lax.scan(
            body, (held(z, of_given), of_given, x0), jnp.arange(self.steps)
        )
        x0 = jnp.where(fixed, token, x0[:rows])
        return Sampled(x0, jnp.full(rows, self.steps * count, jnp.int32))


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


def _choose(a, chosen, count):
    """The particles of the numbers chosen (B, K) in the place of all."""
    apart = a.reshape(count, -1, *a.shape[1:])
    index = chosen.T.reshape(chosen.T.shape + (1,) * (a.ndim - 1))
    return _merge(jnp.take_along_axis(apart, index, axis=0))
