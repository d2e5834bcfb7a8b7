"""What the processes on discrete states share: each position moves on its own by a Markov chain.

The chain (`Interpolation`, `DenseChain`) knows q; this file turns it and a network into a process.

What a network head holds. Two readings of "p(x0 | z_t)" are in use, and mixing them is wrong by nats:

    posterior       p(x0^i | z_t)
    leave_one_out   p(x0^i | z_t without z_t^i)

They are one for masked positions of an absorbing process and differ for every other kernel, by
p(x0^i | z_t) proportional to leave-one-out times q(z_t^i | x0^i). The exact reverse step reads

    p(z_s^i = j | z_t) = sum_x posterior(x) q(z_s = j | z_t, x)
                       = q(z_t | z_s = j) sum_x leave_one_out(x) q(z_s = j | x) / normaliser:

putting a head into the formula of the bridge in place of a one-hot x0, as D3PM and UDLM do, takes it
as leave-one-out. `predict` gives the posterior, whatever the head holds.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from diffusion.chains import Chain, Interpolation, interpolation
from diffusion.kernels import ClosedKernel
from diffusion.numerics import gather_last, log_divide, log_softmax
from diffusion.process import JumpProcess, KnownTokens, RateProcess, TimeIntegral
from diffusion.random import split
from diffusion.schedules import Schedule

Head = Literal["leave_one_out", "posterior"]


class MarkovProcess(JumpProcess, TimeIntegral):
    """The methods of `JumpProcess` that follow from `chain` and `head`; a subclass adds `token_loss`."""

    vocab_size: int | None
    head: Head
    """What the network holds: "posterior", p(x0 | z_t), or "leave_one_out" (above)."""
    chain: Chain
    closed_form: bool = True
    """Whether the chain draws the noise between any two times, in closed form (`draw_step`)."""

    @property
    def num_states(self) -> int:
        return self.chain.num_states

    def prior(self, key: Array, shape: tuple[int, int]) -> Array:
        return self.chain.draw_prior(key, shape)

    def corrupt(self, key: Array, x0: Array, t: Array) -> Array:
        return self.chain.draw_marginal(key, x0, t)

    def bridge(self, key: Array, x0: Array, z: Array, t: Array, s: Array) -> Array:
        return self.chain.draw_bridge(key, x0, z, t, s)

    def log_likelihood(self, z: Array, t: Array) -> Array:
        return self.chain.log_likelihood(z, t)

    def predict(self, out: Array, z: Array, t: Array) -> Array:
        if self.head == "posterior":
            return log_softmax(out)
        return log_softmax(log_softmax(out) + self.log_likelihood(z, t))

    def leave_one_out(self, out: Array, z: Array, t: Array) -> Array:
        """log p(x0^i | z_t without z_t^i), (B, L, V), up to a constant per position."""
        if self.head == "leave_one_out":
            return log_softmax(out)
        likelihood = self.log_likelihood(z, t)
        return jnp.where(
            jnp.isneginf(likelihood), -jnp.inf, log_divide(log_softmax(out), likelihood)
        )

    def invert_predict(self, log_p0: Array, z: Array, t: Array) -> Array:
        return log_p0 if self.head == "posterior" else log_divide(log_p0, self.log_likelihood(z, t))

    def log_posterior(self, log_p0: Array, z: Array, t: Array, s: Array) -> Array:
        weights = log_divide(log_p0, self.log_likelihood(z, t))
        return log_softmax(self.chain.log_step(z, t, s) + self.chain.log_mix(weights, s))

    def log_ratio(self, out: Array, z: Array, t: Array) -> Array:
        log_p = self.chain.log_mix(self.leave_one_out(out, z, t), t)
        return log_p - gather_last(log_p, z)[..., None]

    def bound_terms(self, key, model, x0, u):
        return super().bound_terms(key, model, x0, u) | self.prior_term(x0, u.dtype)

    def prior_term(self, x0: Array, dtype: DTypeLike) -> dict[str, Array]:
        """{"prior": KL(q(z_1 | x0) || p(z_1))}, (B, L) nats, or {} where it is exactly 0."""
        value = self.chain.prior_divergence(x0, dtype)
        return {} if value is None else {"prior": value}


class ContinuousMarkovProcess(MarkovProcess, RateProcess):
    """A Markov process in continuous time, with a closed kernel and a schedule; a subclass has both."""

    kernel: ClosedKernel
    schedule: Schedule
    """alpha(t), the probability that a token is kept."""

    def check_noise(self) -> None:
        """ValueError for a schedule of discrete time, or a kernel of another vocabulary."""
        if not isinstance(self.schedule, Schedule):
            name = type(self).__name__
            raise ValueError(
                f"{name}.schedule = {type(self.schedule).__name__} is for D3PM; use Linear, "
                "Cosine, Polynomial or another of diffusion.schedules"
            )
        if self.vocab_size is not None:
            self.kernel.check(self.vocab_size)

    @property
    def posterior_head(self) -> bool:
        """Whether `out` at a masked position is log p(x0 | z_t) up to a constant."""
        return self.head == "posterior"

    @property
    def known_tokens(self) -> KnownTokens:
        """What a known token that stands clean in the state means: "exact" where the kernel masks."""
        return "exact" if self.kernel.masks else "biased"

    @property
    def masked_schedule(self) -> Schedule | None:
        """alpha(t) where the kernel masks, else None."""
        return self.schedule if self.kernel.masks else None

    @property
    def chain(self) -> Interpolation:
        """The distribution q of one position, from kernel and schedule."""
        return interpolation(self.kernel, self.num_tokens, self.schedule)

    def rate(self, t: Array) -> Array:
        """sigma'(t) = -alpha'(t) / alpha(t); finite where alpha is 0, and what it multiplies is 0."""
        return -self.schedule.dalpha(t) * jnp.exp(-jnp.maximum(self.schedule.log_alpha(t), -60))

    def log_odds(self, t: Array) -> Array:
        """log(alpha / (1 - alpha))."""
        return self.schedule.log_alpha(t) - self.schedule.log1m_alpha(t)

    def log_reverse_rate(self, out: Array, z: Array, t: Array) -> Array:
        t = jnp.minimum(t, 1 - 1e-6)  # at 1 the rate of noise is infinite where alpha is 0
        to_z = self.kernel.log_stationary(self.num_tokens).astype(t.dtype)[z]  # of the rate forward
        rate = self.log_ratio(out, z, t) + (to_z + jnp.log(self.rate(t)))[..., None]
        return jnp.where(jax.nn.one_hot(z, self.num_states, dtype=bool), -jnp.inf, rate)

    def bound_terms(self, key, model, x0, u):
        key_diffusion, key_start = split(key)
        terms = super().bound_terms(key_diffusion, model, x0, u)
        with jax.ensure_compile_time_eval():
            noise_at_0 = float(jnp.exp(self.schedule.log1m_alpha(jnp.zeros(()))))
        if noise_at_0 > 0:
            t = jnp.zeros_like(u)
            z = self.corrupt(key_start, x0, t)
            terms["reconstruction"] = -gather_last(self.predict(model(z, t), z, t), x0)
        return terms
