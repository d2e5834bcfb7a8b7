"""Guidance: a network steered towards a label; any sampler takes the result in the network's place.

The strength is that of the label in the score: 0 is the unconditional distribution, 1 the conditional
one, more exaggerates. Classifier-free guidance mixes the distributions of x0 of the network with and
without its label:

    log_probability   p proportional to p_label^strength p_free^(1 - strength)
    probability       p = strength p_label + (1 - strength) p_free

The first is usual on discrete states (arXiv 2412.10193), and the default there; it is one rule for both
readings of the network (`diffusion.markov`), whose evidence appears to the powers strength and
1 - strength. `samplers.discrete_guidance` mixes posteriors over z_s instead, which for uniform noise is
another distribution, and has the guidance by a classifier of discrete states.

Of masked processes a prompt can take the label's place: the network without it sees masks where the
prompt stands (`HiddenPrompt`), and with w = strength, masked positions are drawn from

    p proportional to p(x0 | z, prompt)^w p(x0 | z)^(1 - w),

which is LLaDA's logits_free + (cfg_scale + 1) (logits - logits_free), w = cfg_scale + 1 (arXiv
2502.09992). Both networks are the same one, so it has to know the text without a prompt too: one that
was trained on whole texts does, one that was trained from the start on pairs of prompt and answer has
never seen a masked prompt. A network with time is asked at the time of the sampler, though more is
masked. Positions of one step are drawn independently of each other, and products of such distributions
at each step are not the product of those of texts: w is a knob, not an exact tilt, as for labels.

On the simplex, where log q(z | x0 = v) = evidence log z_v + constant, the score of p_t(z) along log z is
evidence times p(x0 | z_t) and a part that no label changes. Hence both rules there:

- classifier-free: adding scores, s = strength s_label + (1 - strength) s_free, is adding probabilities,
  the default. (Dirichlet flow matching, arXiv 2402.05841, offers them as two methods and solves a linear
  system for the first: the solution is the second.)
- classifier: p = p_free + strength / evidence * z (g - sum_k z_k g_k), g = d log p(label | z) / dz: with
  the exact classifier and strength 1 this is exactly p(x0 | z_t, label).

Where the sum leaves the simplex it is projected onto it, which is no longer the score asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import Model
from diffusion.numerics import log_softmax, tilt
from diffusion.process import Objective, Sequential, denoising_process
from diffusion.simplex import EvidenceProcess, SimplexProcess, project

IMPOSSIBLE = -1e9  # in place of log 0, whose differences are not numbers
# Of the Dirichlet path near t = 1, where a learned gradient over it is noise.
_LEAST_EVIDENCE = 1e-2

Space = Literal["probability", "log_probability"]


def classifier_free(
    process: Objective,
    conditional: Model,
    unconditional: Model,
    strength: float | Array,
    space: Space | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Model:
    """model(z, t) -> out (B, L, V) of a network with and without its label; two calls each time.

    Guidance acts at times low <= t <= high of the interval (arXiv 2404.07724), row by row; at others it
    is the conditional network alone, and where no row is inside the other network is not called. space:
    above; None is "probability" on the simplex, else "log_probability". A network that decodes with a
    cache gives one that does; of an autoregressive model, at t = 0, the distribution of the next token
    is mixed.
    """
    if space not in (None, "probability", "log_probability"):
        raise ValueError(f"space = {space!r} is neither 'probability' nor 'log_probability'")
    interval = (interval[0], interval[1])
    check_interval(interval)
    if isinstance(strength, int | float) and strength == 1:
        return conditional
    if space is None:
        space = "probability" if isinstance(process, SimplexProcess) else "log_probability"
    return _Mixed(process, conditional, unconditional, strength, space, interval)


@dataclass(frozen=True)
class HiddenPrompt:
    """A model that sees masks where tokens are known.

    model: what it asks, on states of tokens. mask: the number of the mask. known: int (B, L), -1 where a
    token is not known. A sampler with K particles a row asks for all rows K times, particle by particle.
    """

    model: Model
    mask: int
    known: Array

    def __call__(self, z: Array, t: Array) -> Array:
        """out (B, L, V) of the state without the known tokens."""
        known = jnp.tile(self.known, (len(z) // len(self.known), 1))
        return self.model(jnp.where(known >= 0, self.mask, z), t)


def hides_prompts(process: Objective) -> bool:
    """Whether the network can be asked without a prompt: where the noise is a mask, and every position
    sees every other."""
    if isinstance(process, Sequential) or process.traits.attention_block is not None:
        return False
    noisy = denoising_process(process)
    return noisy.space.mask is not None and noisy.known_tokens == "exact"


def check_interval(interval: tuple[float, float]) -> None:
    """ValueError for what is no interval of times."""
    if not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(f"interval = {interval} must be (low, high) with 0 <= low <= high <= 1")


def inside(interval: tuple[float, float], t: Array) -> Array | bool:
    """Whether guidance acts: (B, 1, 1) or (B, L, 1) from t (B, 1) or (B, L); True for all times."""
    if interval == (0, 1):
        return True
    return ((interval[0] <= t) & (t <= interval[1]))[..., None]


def mixed(log_p: Array, log_free: Array, strength: float | Array) -> Array:
    """log of p^strength p_free^(1 - strength), normalised; where one is 0, the limit towards it."""
    absent, absent_free = jnp.isneginf(log_p), jnp.isneginf(log_free)
    # The power of what is 0: the least of all is infinitely more probable than the others.
    power = jnp.where(
        absent, jnp.where(absent_free, 1, strength), jnp.where(absent_free, 1 - strength, 0)
    )
    possible = power <= power.min(-1, keepdims=True)
    log_p, log_free = (jnp.where(jnp.isneginf(a), 0, a) for a in (log_p, log_free))
    return log_softmax(log_free + tilt(log_p - log_free, strength, possible))


@dataclass(frozen=True)
class _Mixed:
    """What `classifier_free` returns.

    process, conditional, unconditional, strength, space, interval: its arguments.
    """

    process: Objective
    conditional: Model
    unconditional: Model
    strength: float | Array
    space: Space
    interval: tuple[float, float]

    def __call__(self, z: Array, t: Array) -> Array:
        out = self.conditional(z, t)
        if self.interval == (0, 1):
            return self._mix(out, self.unconditional(z, t), z, t)
        return jax.lax.cond(
            jnp.any(inside(self.interval, t)),
            lambda: self._mix(out, self.unconditional(z, t), z, t).astype(out.dtype),
            lambda: out,
        )

    def cache(self, rows: int, length: int):
        """One of each network."""
        return tuple(n.cache(rows, length) for n in (self.conditional, self.unconditional))

    def decode(self, z: Array, t: Array, cache, *place):
        """As `models.backbone.Network.decode`; always two calls, since both caches have to grow."""
        out, conditional_cache = self.conditional.decode(z, t, cache[0], *place)
        free, free_cache = self.unconditional.decode(z, t, cache[1], *place)
        return self._mix(out, free, z, t), (conditional_cache, free_cache)

    @property
    def energy(self) -> Model:
        """The second network of a residual energy, that with the label."""
        return self.conditional.energy

    def _mix(self, out, free, z, t):
        if isinstance(self.process, Sequential):
            return jnp.where(
                inside(self.interval, t), self._distribution(*map(log_softmax, (out, free))), out
            )
        process = denoising_process(self.process)
        distribution = self._distribution(*(process.predict(o, z, t) for o in (out, free)))
        guided = process.invert_predict(distribution, z, t)
        return jnp.where(inside(self.interval, t), guided, out)

    def _distribution(self, log_p, log_free):
        if self.space == "log_probability":
            return mixed(log_p, log_free, self.strength)
        p, free = jnp.exp(log_p), jnp.exp(log_free)
        return jnp.log(project(free + tilt(p - free, self.strength)))


def classifier(
    process: EvidenceProcess,
    unconditional: Model,
    log_p_label: Callable[[Array, Array], Array],
    strength: float | Array,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Model:
    """model(z, t) -> out (B, L, V), from log_p_label(z, t) (B,) of a classifier of noisy states.

    interval: as of `classifier_free`; where no row is inside, the classifier is not called."""
    check_interval(interval)

    def guided(out, z, t):
        p = jnp.exp(process.predict(out, z, t))
        gradient = jax.grad(lambda z: log_p_label(z, t).sum())(z)
        tangent = z * (gradient - jnp.sum(z * gradient, axis=-1, keepdims=True))
        evidence = jnp.maximum(process.evidence(t), _LEAST_EVIDENCE)[..., None]
        log_p = jnp.log(project(p + tilt(tangent, strength / evidence)))
        return process.invert_predict(log_p, z, t)

    def model(z, t):
        out = unconditional(z, t)
        if interval == (0, 1):
            return guided(out, z, t)
        acts = inside(interval, t)
        guided_out = jax.lax.cond(
            jnp.any(acts), lambda: guided(out, z, t).astype(out.dtype), lambda: out
        )
        return jnp.where(acts, guided_out, out)

    return model
