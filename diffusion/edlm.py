"""Energy-based diffusion language models, EDLM (arXiv 2410.21357): masked diffusion, jointly resampled.

A frozen masked process draws the tokens of a step independently of each other. An energy E(x, z_t, t) of
whole sequences repairs that: p(x | z_t) proportional to p_base(x | z_t) exp(-E). Low energy is good.

What is sampled. At each step from t to s with t > 1 - window, k candidates x_1..x_k are drawn from the
base, one is kept with probability w_j / sum w, w = exp(-E / temperature), and the bridge reveals part of
it. Elsewhere, and with k = 1, this is the base's sampler. `Ancestral(steps=T)` does it.

Its likelihood. The bridge chooses the set U of revealed positions without regard to tokens, so in the
evidence lower bound of the T-step chain, E_q sum_t log p(z_s | z_t) / q(z_s | z_t, x0), a step
contributes log p(x_U | z_t), the probability that the kept candidate agrees with x0 on U:

    p(x_U | z_t) = E sum_j a_j w_j / W          a_j = [x_j agrees on U],  W = sum_j w_j

Candidates that agree are rare, so draw one of them, say x_1, from the base given that it agrees (x0 on
U, drawn elsewhere) and the others from the base. All indices being alike, such a k-tuple has the density
of k independent draws times A / (k p_base(x_U | z_t)), A = sum_j a_j, hence with Jensen's inequality

    p(x_U | z_t) = p_base(x_U | z_t) E[ (sum_j a_j w_j / A) / (W / k) ]
    log p(x_U | z_t) >= log p_base(x_U | z_t) + E[ log of the mean weight of those that agree
                                                  over the mean weight of all ]

Taking w_1 for the mean of those that agree is the same with another Jensen step, and looser: this way a
step costs nothing where all agree, as where U is empty. The T-step bound of the base minus the sum of
the expected logarithms is a bound on -log of the distribution of this sampler; the mean of
`bound_samples` draws inside the logarithm tightens it. It holds for T = `num_steps` on the uniform grid,
k, window and temperature as they are set: a statement about one sampler, not a limit. As T grows a step
reveals one token at most, and no energy helps.

The published perplexities are none: a log Z estimated from base samples is too low in the mean, and the
integral over continuous time of a distribution that does not factorise is no bound. Neither is offered
here.

The model of a process of this file is `model(z, t)`, the base's network, with a second one,
`model.energy`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array

from diffusion.autoregressive import Autoregressive
from diffusion.mdlm import MDLM
from diffusion.model import Model
from diffusion.numerics import gather_last
from diffusion.process import Composed, Kind, KnownTokens, Likelihood, Process, Traits
from diffusion.random import categorical, split
from diffusion.spaces import StateSpace


@dataclass(frozen=True)
class _Residual(Process, Composed, Likelihood):
    """What a process with a residual energy is, up to the energy: `log_weight`.

    base: the frozen masked process. candidates: k, how many are drawn in a step, each a call of the
    energy network. window: the share of the steps that resample, the first ones; 0 is the base alone.
    temperature: of the weights exp(-E / temperature); large ones make all candidates alike. num_steps: T
    of the bound, which holds for a sampler of as many steps. bound_samples: draws of k candidates inside
    the logarithm of the bound; more are tighter, and cost as much more.
    """

    base: MDLM = MDLM()
    candidates: int = 4
    window: float = 1.0
    temperature: float = 1.0
    num_steps: int = 16
    bound_samples: int = 1
    likelihood: ClassVar[Kind] = "bound"
    monitor: ClassVar[str] = "loss"
    token_logits: ClassVar[bool] = False  # energies are of whole texts

    def __post_init__(self):
        name = type(self).__name__
        for field in ("candidates", "num_steps", "bound_samples"):
            if getattr(self, field) < 1:
                raise ValueError(f"{name}.{field} = {getattr(self, field)} must be at least 1")
        if not 0 <= self.window <= 1:
            raise ValueError(f"{name}.window = {self.window} is outside [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"{name}.temperature = {self.temperature} must be positive")

    @abstractmethod
    def log_weight(self, model: Model, log_p0: Array, x: Array, z: Array, t: Array) -> Array:
        """-E(x, z, t), (B,): the log weight of candidates x (B, L) drawn from log_p0 (B, L, V)."""

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        """As `Objective.bound_terms`: those of the base in `num_steps` steps, and what the energy
        changes, "energy", which belongs to the sequence and is spread over its positions evenly."""
        key_base, key_energy = split(key)
        steps = self.base.in_steps(self.num_steps)
        terms = steps.bound_terms(key_base, model, x0, u)
        gain = self.num_steps * self._gain(key_energy, model, x0, steps.time(u))
        return terms | {"energy": jnp.broadcast_to(-gain[:, None] / x0.shape[1], x0.shape)}

    def _gain(self, key, model, x0, t):
        """(B,) nats: log of the mean ratio over `bound_samples` draws, for the step from t."""
        key_z, key_bridge, key_candidates = split(key, 3)
        z = self.base.corrupt(key_z, x0, t)
        s = (jnp.round(t * self.num_steps) - 1) / self.num_steps
        revealed = z != self.base.bridge(key_bridge, x0, z, t, s)
        log_p0 = self.base.predict(model(z, t), z, t)
        count = self.candidates * self.bound_samples
        x = jax.vmap(lambda k: categorical(k, log_p0))(split(key_candidates, count))
        x = x.reshape(self.bound_samples, self.candidates, *x0.shape)
        x = x.at[:, 0].set(jnp.where(revealed, x0, x[:, 0]))
        agrees = ((x == x0[None, None]) | ~revealed[None, None]).all(-1)  # (M, k, B)
        log_w = self._log_weights(model, log_p0, x.reshape(count, *x0.shape), z, t)
        log_w = log_w.reshape(agrees.shape)
        mean = jax.nn.logsumexp(log_w, axis=1) - jnp.log(self.candidates)
        of_those = jax.nn.logsumexp(jnp.where(agrees, log_w, -jnp.inf), axis=1)
        log_ratio = of_those - jnp.log(agrees.sum(1)) - mean
        gain = jax.nn.logsumexp(log_ratio, axis=0) - jnp.log(self.bound_samples)
        return jnp.where(self._inside(t)[:, 0], gain, 0)

    def _log_weights(self, model, log_p0, x, z, t):
        """(K, B) from candidates (K, B, L), all in one call of the energy."""
        count, rows = x.shape[:2]
        log_p0, z, t = (jnp.tile(a, (count,) + (1,) * (a.ndim - 1)) for a in (log_p0, z, t))
        flat = self.log_weight(model, log_p0, x.reshape(count * rows, -1), z, t)
        return flat.reshape(count, rows) / self.temperature

    def _inside(self, t):
        """Whether a step from t resamples: the first window * T of T steps do."""
        return t > 1 - self.window + 1e-6

    # What a sampler needs: the network is that of the base, and read as its.

    @property
    def space(self) -> StateSpace:
        return self.base.space

    @property
    def known_tokens(self) -> KnownTokens:
        """What a known token means in the base."""
        return self.base.known_tokens

    def time(self, u: Array) -> Array:
        return self.base.time(u)

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        return self.base.predict(out, z, t)

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        return self.base.invert_predict(log_p0, z, t)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        return self.base.token_loss(out, x0, z, t)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        return self.base.log_likelihood(z, t)

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return self.base.prior(key, shape)

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        return self.base.corrupt(key, x0, t)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        return self.base.bridge(key, x0, z, t, s)

    def draw(self, key, model, z, t, logits_processor=None):
        keys = split(key, self.candidates + 1)
        log_p0 = self.base.predict(model(z, t), z, t)
        if logits_processor is not None:
            log_p0 = logits_processor(log_p0)

        def resampled(_):
            x = jax.vmap(lambda k: categorical(k, log_p0))(keys[1:])
            log_w = self._log_weights(model, log_p0, x, z, t)
            kept = categorical(keys[0], log_w.T[:, None])  # (B, 1)
            kept = jnp.where(self._inside(t), kept, 0)
            return jnp.take_along_axis(x, kept[None], axis=0)[0]

        def plain(_):
            return categorical(keys[1], log_p0)

        if self.candidates == 1:
            return plain(None)
        return jax.lax.cond(self._inside(t).any(), resampled, plain, None)


@dataclass(frozen=True)
class EDLM(_Residual):
    """A learned energy, model.energy(x, t, state=z) -> (B,), trained by noise-contrastive estimation:

        loss = -log sigmoid(-E(x0, z_t, t)) - log sigmoid(E(x, z_t, t)),    x ~ p_base(. | z_t)

    per sequence, and the same number at each of its positions. Its minimum over all energies is
    E = log p_base(x | z_t) - log q(x | z_t), which makes the residual distribution exact. At E = 0 it is
    log 4.
    """

    # The base stays as it is; a second network knows of no labels.
    traits: ClassVar[Traits] = Traits(
        second_network="energy", labels="unsupported", trained=("energy",), whole_rows=True
    )

    def log_weight(self, model: Model, log_p0: Array, x: Array, z: Array, t: Array) -> Array:
        return -model.energy(x, t, state=z)

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        key_z, key_x = split(key)
        t = self.base.time(u)
        z = self.base.corrupt(key_z, x0, t)
        x = categorical(key_x, self.base.predict(model(z, t), z, t))
        loss = contrastive(model.energy(x0, t, state=z), model.energy(x, t, state=z))
        return jnp.broadcast_to(loss[:, None], x0.shape)


@dataclass(frozen=True)
class EDLMAutoregressive(_Residual):
    """A pretrained autoregressive model as the energy, E = log p_base(x | z_t) - log p_AR(x), so that
    nothing is trained. model.energy(x, t) is its network. The weights are exact if p_AR is the
    distribution of the data."""

    traits: ClassVar[Traits] = Traits(
        second_network="energy", labels="unsupported", trained=(), whole_rows=True
    )

    def log_weight(self, model: Model, log_p0: Array, x: Array, z: Array, t: Array) -> Array:
        log_p_ar = Autoregressive(self.vocab_size).log_p(model.energy, x)
        return log_p_ar.sum(1) - gather_last(log_p0, x).sum(1)

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        return self.bound(key, model, x0, u)


def contrastive(energy_of_data: Array, energy_of_noise: Array) -> Array:
    """-log sigmoid(-E(x0)) - log sigmoid(E(x)): binary classification by the energy's sign."""
    return jax.nn.softplus(energy_of_data) + jax.nn.softplus(-energy_of_noise)
