"""Guided reverse steps on discrete states (Schiff et al., arXiv 2412.10193), for `Posterior` to sample.

- `MixedPosteriors`: classifier-free on the distribution of z_s,
      p(z_s | z_t) proportional to p_label(z_s | z_t)^strength p_free(z_s | z_t)^(1 - strength).
  The paper does so for uniform noise. For a mask it mixes the distributions of x0, as `classifier_free`
  does: to mix posteriors there changes how fast masked positions are revealed too, by the factor
  sum_v p_label(v)^strength p_free(v)^(1 - strength).
- `ByClassifier`: with z(i->v) the state z with position i set to v,
      p(z_s^i = v | z_t) proportional to p_free(z_s^i = v | z_t) p(label | z(i->v))^strength.
  exact=True asks the classifier for all L S of these states; exact=False takes the first order in v,
      log p(label | z(i->v)) = log p(label | z) + g[i, v] - g[i, z^i],   g = d log p(label | z) / dz,
  from one gradient with respect to a one-hot state. Both take the classifier at time t for the step to
  s and all positions apart: for a mask one position's step is still the conditional distribution
  exactly, with the exact classifier and strength 1; for other noise in the limit of small steps.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.model import Model
from diffusion.numerics import gather_last, log_softmax, tilt
from diffusion.process import JumpProcess
from samplers.guidance import IMPOSSIBLE, check_interval, inside, mixed
from samplers.posterior import GuidedStep

LogLabel = Callable[[Array, Array], Array]
"""log p(label | z) at time t, (B,), of a state z: int (B, L), or one-hot float (B, L, S)."""


@dataclass(frozen=True)
class MixedPosteriors(GuidedStep):
    """Classifier-free guidance of the distribution of z_s.

    process: the process. conditional, unconditional: its network with and without the label. strength: 0
    is the unconditional distribution, 1 the conditional one. interval: of the times t at which guidance
    acts, as in `samplers.guidance.classifier_free`.
    """

    process: JumpProcess
    conditional: Model
    unconditional: Model
    strength: float | Array
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        check_interval(self.interval)

    def distributions(self, z, t, s):
        p0 = [self.process.predict(n(z, t), z, t) for n in (self.conditional, self.unconditional)]
        p = [self.process.log_posterior(log_p0, z, t, s) for log_p0 in p0]
        acts = inside(self.interval, t)
        return tuple(
            jnp.where(acts, mixed(two[0], two[1], self.strength), two[0]) for two in (p, p0)
        )

    def __call__(self, z: Array, t: Array) -> Array:
        """out (B, L, V): as a network."""
        return self.process.invert_predict(self.distributions(z, t, t)[1], z, t)


@dataclass(frozen=True)
class ByClassifier(GuidedStep):
    """Guidance by a classifier, of one step.

    process: the process. unconditional: its network. log_p_label: the classifier, of int states if
    `exact`, else of one-hot float ones. strength: the power of its probability; 0 is the network alone.
    exact: whether it is asked for every changed state, not for its gradient. at_once: how many changed
    states of each row are classified together. interval: of the times at which guidance acts; where no
    row is inside, the classifier is not called.
    """

    process: JumpProcess
    unconditional: Model
    log_p_label: LogLabel
    strength: float | Array
    exact: bool = True
    at_once: int = 8
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        check_interval(self.interval)

    def distributions(self, z, t, s):
        log_p0 = self.process.predict(self.unconditional(z, t), z, t)
        free = self.process.log_posterior(log_p0, z, t, s), log_p0

        def guided():
            labelled = self.log_p_changed(z, t)
            return tuple(self._tilted(log_p, labelled) for log_p in free)

        if self.interval == (0, 1):
            return guided()
        acts = inside(self.interval, t)
        distributions = jax.lax.cond(jnp.any(acts), guided, lambda: free)
        return tuple(jnp.where(acts, *two) for two in zip(distributions, free, strict=True))

    def __call__(self, z: Array, t: Array) -> Array:
        """out (B, L, V): as a network."""
        return self.process.invert_predict(self.distributions(z, t, t)[1], z, t)

    def log_p_changed(self, z: Array, t: Array) -> Array:
        """(B, L, S): log p(label | z with the position set to the state)."""
        rows, length = z.shape
        states = self.process.num_states
        if not self.exact:
            onehot = jax.nn.one_hot(z, states, dtype=t.dtype)
            log_p, gradient = _with_gradient(lambda z: self.log_p_label(z, t), onehot)
            return log_p[:, None, None] + gradient - gather_last(gradient, z)[..., None]

        def changed(number):
            return self.log_p_label(z.at[:, number // states].set(number % states), t)

        values = jax.lax.map(changed, jnp.arange(length * states), batch_size=self.at_once)
        return values.T.reshape(rows, length, states)

    def _tilted(self, log_p, labelled):
        labelled = jnp.maximum(labelled[..., : log_p.shape[-1]], IMPOSSIBLE)
        guided = log_softmax(log_p + tilt(labelled, self.strength, ~jnp.isneginf(log_p)))
        return jnp.where(self.strength == 0, log_p, guided)


def _with_gradient(f, x):
    """f(x) (B,) and the gradient of each row's value, of the shape of x."""
    value, pull = jax.vjp(f, x)
    return value, pull(jnp.ones_like(value))[0]
