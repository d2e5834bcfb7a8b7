"""Dirichlet flow matching (Stark et al., arXiv 2402.05841), and a bound for its likelihood.

Path: z_t ~ Dir(1 + (conc(t) - 1) e_x0) per position, conc(t) = 1 - scale log t, from the uniform
distribution at t = 1 to the vertex x0 at t = 0. (The paper's time is conc itself, and it trains at
conc = 1 + 2 Exp(1): t uniform, scale = 2.) The network is a classifier of x0, trained by its
cross-entropy. What moves z is

    v(z, t) = sum_i p(x0 = i | z_t) c(z_i, conc) (e_i - z),        per unit of conc,

with the exact coefficient c of `diffusion.dirichlet_coefficient`. Two samplers reach the same
distribution: the ODE dz = v dconc (`samplers.ode`), and the exact bridge w z + (1 - w) e_x0,
w ~ Beta(conc(t) + V - 1, conc(s) - conc(t)), by which Dir(1 + (conc(t) - 1) e_x0) becomes
Dir(1 + (conc(s) - 1) e_x0) (`samplers.ancestral`).

The bound. The model draws z at conc = `bound_conc` by its ODE and then each token from p(x0 | z), so

    -log p(x0) <= E_(z ~ q(z | x0)) [ -log p(x0 | z) + log q(z | x0) - log p(z) ]
    log p(z) = log Gamma(V) L - int_1^conc div v dconc    along the ODE from z back to conc = 1

(densities on the simplex; the instantaneous change of variables of Chen et al., 1806.07366). With u_i =
c(z_i) (e_i - z) the continuity equation of the conditional path gives its divergence in closed form, so

    div v = sum_i p_i div u_i + sum_i u_i . grad p_i,
    div u_i = E - log z_i - (conc - 1) c(z_i) (1 - z_i) / z_i,    E = E[log z_i] under the path,

and only the second part needs the network's Jacobian. Written for p as a function of log z, of which a
constant may be added without changing p, it is a weighted trace,

    sum_i u_i . grad p_i = sum_i c(z_i) / z_i dp_i / dlog z_i:

exactly by L V products, or by Hutchinson's unbiased estimate, one product per probe. (In z itself the
estimate has the noise of 1 / z.) The gap of the bound is
what the tokens still share given z, which vanishes as bound_conc grows, plus the model's own error. The
ODE is solved by `bound_steps` steps of Runge-Kutta 4 in log z and log conc; the solver's error is not
part of the bound and falls with the fourth power of the steps (docs/measurements.md).
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import digamma, gammaln

from diffusion.dirichlet_coefficient import coefficient_over_x
from diffusion.markov import Head
from diffusion.model import Model
from diffusion.numerics import gather_last, log_quotient
from diffusion.process import FlowProcess, Kind, Likelihood
from diffusion.random import fold_in, log_exponential, log_gamma, signs, split
from diffusion.simplex import EvidenceProcess, log_state

_LEAST_TIME = 1e-4  # the coefficient is tabulated from here to t = 1
_CERTAIN = 1e6  # evidence in place of inf at t = 0


@dataclass(frozen=True)
class DirichletFlow(EvidenceProcess, FlowProcess, Likelihood):
    """Dirichlet flow matching.

    scale: how fast the concentration grows as t falls, 1 - scale log t; 2 is the paper's training.
    bound_conc: the concentration at which the bound reads off the tokens; the larger, the tighter.
    bound_steps: of Runge-Kutta 4, four calls of the network and its derivative each. bound_probes: of
    Hutchinson's estimate of the trace; None computes it exactly, with a product for each of L V numbers.
    """

    vocab_size: int | None = None
    scale: float = 2.0
    bound_conc: float = 12.0
    bound_steps: int = 16
    bound_probes: int | None = 1
    head: Head = "posterior"
    likelihood: ClassVar[Kind] = "bound"
    monitor: ClassVar[str] = "loss"  # the bound solves an ODE

    def __post_init__(self):
        self.check_size()
        if self.scale <= 0:
            raise ValueError(f"DirichletFlow.scale = {self.scale} must be positive")
        if not 1 < self.bound_conc <= self._highest:
            raise ValueError(
                f"DirichletFlow.bound_conc = {self.bound_conc} must lie between 1 and "
                f"{self._highest:.4g}, which the scale reaches at t = {_LEAST_TIME}"
            )
        for name in ("bound_steps", "bound_probes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"DirichletFlow.{name} = {getattr(self, name)} must be at least 1")

    @property
    def _highest(self) -> float:
        return 1 - self.scale * math.log(_LEAST_TIME)

    def conc(self, t: Array) -> Array:
        """The concentration of the token's own component: 1 at t = 1, inf at t = 0."""
        return 1 - self.scale * jnp.log(t)

    def _gained(self, t, s):
        """conc(s) - conc(t), s <= t."""
        return -self.scale * log_quotient(s, t)

    def evidence(self, t: Array) -> Array:
        return jnp.minimum(self.conc(t) - 1, _CERTAIN)

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return jax.nn.softmax(log_exponential(key, (*shape, self.num_tokens)))

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        return self._draw(key, x0, jnp.broadcast_to(self.conc(t), x0.shape))

    def _draw(self, key, x0, conc):
        key_others, key_x0 = split(key)
        log_g = log_exponential(key_others, (*x0.shape, self.num_tokens), conc.dtype)
        of_x0 = log_gamma(key_x0, jnp.minimum(conc, _CERTAIN))[..., None]
        z = jax.nn.softmax(jnp.where(jax.nn.one_hot(x0, self.num_tokens, dtype=bool), of_x0, log_g))
        return jnp.where(jnp.isinf(conc)[..., None], self.space.pure(x0, z.dtype), z)

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        return -gather_last(self.predict(out, z, t), x0)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        now, then = (jnp.broadcast_to(self.conc(time), x0.shape) for time in (t, s))
        key_kept, key_gained = split(key)
        gained = jnp.where(jnp.isinf(then), 1.0, self._gained(t, s))
        log_kept = log_gamma(key_kept, now + self.num_tokens - 1)
        w = jax.nn.sigmoid(log_kept - log_gamma(key_gained, gained))
        w = jnp.where(jnp.isinf(then), 0, w)[..., None]
        return w * z + (1 - w) * self.space.pure(x0, z.dtype)

    def velocity(self, log_p0: Array, z: Array, t: Array) -> Array:
        conc = self.conc(t)
        return -self.scale / t[..., None] * z * self._log_velocity(jnp.exp(log_p0), z, conc)

    def flow(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        """z at s, by one step of log z: each component is multiplied, none leaves (0, 1)."""
        gained = self._gained(t, s)[..., None]
        rate = self._log_velocity(jnp.exp(log_p0), z, self.conc(t))
        return jax.nn.softmax(log_state(z) + gained * rate)

    def _log_velocity(self, p0, z, conc):
        """d log z / dconc, (B, L, V)."""
        return _tangent(p0 * coefficient_over_x(z, conc, self.num_tokens, self._highest), z)

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        key_z, key_probes = split(key)
        conc = jnp.full(x0.shape, self.bound_conc, u.dtype)
        z = self._draw(key_z, x0, conc)
        time = jnp.full_like(u, math.exp((1 - self.bound_conc) / self.scale))
        log_q = gammaln(conc + self.num_tokens - 1) - gammaln(conc)
        log_q = log_q + (conc - 1) * gather_last(log_state(z), x0)
        return {
            "diffusion": log_q - self.log_density(key_probes, model, z),
            "reconstruction": -gather_last(self.predict(model(z, time), z, time), x0),
        }

    def log_density(self, key: Array, model: Model, z: Array) -> Array:
        """log p(z) of the model's z at conc = bound_conc; (B, L) nats whose sum over L is the density of
        all positions on their simplices, Hutchinson's estimate of it unless bound_probes is None."""
        step = -math.log(self.bound_conc) / self.bound_steps  # of log conc

        def body(carry, number):
            log_z, total = carry
            start = math.log(self.bound_conc) + number.astype(z.dtype) * step
            probes = self._probes(fold_in(key, number), z)

            def slope(log_z, log_conc):
                conc = jnp.full((z.shape[0], 1), jnp.exp(jnp.maximum(log_conc, 0)))
                rate, divergence = self._flow(model, log_z, conc, probes)
                return conc[..., None] * rate, conc * divergence

            k1, d1 = slope(log_z, start)
            k2, d2 = slope(log_z + step / 2 * k1, start + step / 2)
            k3, d3 = slope(log_z + step / 2 * k2, start + step / 2)
            k4, d4 = slope(log_z + step * k3, start + step)
            log_z = jax.nn.log_softmax(log_z + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
            return (log_z, total + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)), None

        start = (log_state(z), jnp.zeros(z.shape[:2], z.dtype))
        (_, change), _ = jax.lax.scan(body, start, jnp.arange(self.bound_steps))
        return gammaln(float(self.num_tokens)) + change

    def _probes(self, key, z):
        """(N, B, L, V) directions: N draws of signs, or all the L V axes."""
        if self.bound_probes is not None:
            keys = [fold_in(key, n) for n in range(self.bound_probes)]
            return jnp.stack([signs(k, z.shape, z.dtype) for k in keys])
        axes = jnp.eye(z.shape[1] * z.shape[2], dtype=z.dtype).reshape(-1, 1, *z.shape[1:])
        return jnp.broadcast_to(axes, (axes.shape[0], *z.shape))

    def _flow(self, model, log_z, conc, probes):
        """(d log z / dconc (B, L, V), div v (B, L)) at one time, conc (B, 1)."""
        time = jnp.exp((1 - conc) / self.scale)

        def classify(log_z):
            z = jax.nn.softmax(log_z)
            return jnp.exp(self.predict(model(z, time), z, time))

        p0, jvp = jax.linearize(classify, log_z)
        z = jax.nn.softmax(log_z)
        over_z = coefficient_over_x(z, conc, self.num_tokens, self._highest)
        mean = digamma(conc) - digamma(conc + self.num_tokens - 1)
        own = mean[..., None] - log_state(z) - (conc - 1)[..., None] * over_z * (1 - z)
        root = jnp.sqrt(over_z)  # on both sides of the Jacobian, which is nearly symmetric so

        def trace(probe):
            return jnp.sum(root * probe * jvp(root * probe), axis=-1)

        traces = jax.lax.map(trace, probes)
        network = traces.sum(0) if self.bound_probes is None else traces.mean(0)
        return _tangent(p0 * over_z, z), jnp.sum(p0 * own, axis=-1) + network


def _tangent(g, z):
    """g - sum_k z_k g_k, (B, L, V): z times it sums to 0."""
    return g - jnp.sum(z * g, axis=-1, keepdims=True)
