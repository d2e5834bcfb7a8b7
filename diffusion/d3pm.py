"""D3PM: discrete-time diffusion with any Markov kernel (Austin et al., arXiv 2107.03006).

Forward: T steps z_0 = x0, z_1, ..., z_T with z_k ~ Q_k[z_(k-1)], so q(z_k | x0) = (Q_1 ... Q_k)[x0].
Time is t = k / T. The model's reverse step is the bridge averaged over what it thinks of x0,

    p(z_s | z_t) proportional to q(z_t | z_s) sum_x p~(x | z_t) q(z_s | x),      s = t - 1 / T

in which p~ is the leave-one-out reading of the network (`diffusion.markov`): the minimum of L_vb is
there. head="posterior" takes the network as p(x0 | z_t) and gives the same family of reverse steps.

    L_vb = KL(q(z_T | x0) || p(z_T)) + sum_(k>=2) E KL(q(z_s | z_t, x0) || p(z_s | z_t))
           - E log p(x0 | z_1)

in one uniformly drawn k: T times its term. At k = 1 the general term is -log p(x0 | z_1) of itself.
p(z_T) is the mean of q(z_T | x0) over all tokens: the stationary distribution, and where the schedule
leaves something of the data, still a distribution under which no x0 costs infinity.

The hybrid loss adds T lambda times the cross entropy of p~: the official code minimises
KL_k + lambda CE_k without the factor T. It trains; the bound never contains it. Under
head="leave_one_out" and a kernel that is not absorbing it pulls the network away from the minimum of
L_vb (the cross entropy is least at the posterior), which is why it hurts the uniform process there.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Self

import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.betas import (
    Betas,
    CosineBetas,
    LinearBetas,
    MutualInformation,
    ReciprocalBetas,
)
from diffusion.chains import DenseChain, Interpolation
from diffusion.dense import MatrixKernel, check_ergodic, check_size
from diffusion.kernels import Absorbing, ClosedKernel, Keep
from diffusion.markov import Head, MarkovProcess
from diffusion.model import at_positions
from diffusion.numerics import divergence, gather_last, log1mexp, log_divide, log_softmax
from diffusion.process import Kind, KnownTokens, check_num_steps


@dataclass(frozen=True)
class D3PM(MarkovProcess):
    """D3PM with any kernel; a sampler may take any number of steps, on the grid of multiples of 1 / T.

    kernel: Absorbing, Uniform, Unigram, Stationary, Gaussian, BandDiagonal, NearestNeighbour, Matrix or
    Masked. schedule: beta of each step (`diffusion.betas`). num_steps: T, from 1 to 2^22. hybrid:
    lambda, the weight of the cross entropy as in the official code; 0 trains on the bound alone.
    """

    vocab_size: int | None = None
    kernel: ClosedKernel | MatrixKernel = Absorbing()
    schedule: CosineBetas | LinearBetas | MutualInformation | ReciprocalBetas = ReciprocalBetas()
    num_steps: int = 1000
    hybrid: float = 0.0
    head: Head = "leave_one_out"
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        check_num_steps(self, self.num_steps)
        if not isinstance(self.schedule, Betas):
            raise ValueError(
                f"D3PM.schedule = {type(self.schedule).__name__} is for continuous time; use "
                "CosineBetas, LinearBetas, MutualInformation or ReciprocalBetas"
            )
        if self.hybrid < 0:
            raise ValueError(f"D3PM.hybrid = {self.hybrid} must not be negative")
        if self.complete:
            _ = self.chain  # what kernel, schedule and data make together is checked here

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be filled in from the data."""
        return self.vocab_size is not None and self.kernel.complete and self.schedule.complete

    @property
    def closed_form(self) -> bool:
        """Whether noise between two times is drawn in closed form; else it is one of matrices."""
        return isinstance(self.kernel, ClosedKernel)

    @property
    def known_tokens(self) -> KnownTokens:
        """What a known token that stands clean in the state means: "exact" where the kernel masks."""
        kernel = self.kernel
        return "exact" if isinstance(kernel, ClosedKernel) and kernel.masks else "biased"

    @cached_property
    def chain(self) -> Interpolation | DenseChain:
        """The distribution q of one position on the grid of T steps; ValueError where kernel, schedule
        and vocabulary do not go together."""
        V, kernel = self.num_tokens, self.kernel
        if isinstance(kernel, ClosedKernel):
            kernel.check(V)
            return _interpolation(kernel, V, self.schedule.betas(self.num_steps, kernel, V))
        check_size(kernel, kernel.num_states(V), self.num_steps)
        steps = kernel.steps(self.schedule.betas(self.num_steps, kernel, V), V)
        check_ergodic(kernel, steps.sum(0))
        return DenseChain(steps, V)

    def in_steps(self, num_steps: int | None) -> Self:
        return replace(self, num_steps=num_steps)

    def time(self, u: Array) -> Array:
        return jnp.ceil(u * self.num_steps) / self.num_steps

    def draw(self, key, model, z, t, logits_processor=None):
        on_grid = jnp.round(t * self.num_steps) / self.num_steps  # where the network was trained
        return super().draw(key, model, z, on_grid, logits_processor)

    def loss(self, key, model, x0, u):
        t = self.time(u)
        z = self.corrupt(key, x0, t)
        if self.hybrid == 0:
            return self.loss_of(model, x0, z, t)

        def both(out, x0, z, t):
            loss = self.token_loss(out, x0, z, t)
            return loss - self.num_steps * self.hybrid * gather_last(log_softmax(out), x0)

        return at_positions(model, both, None, x0, z, t)

    def counted(self, z: Array) -> Array | None:
        return z == self.num_tokens if self.known_tokens == "exact" else None

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        s = t - 1 / self.num_steps
        step = self.chain.log_step(z, t, s)
        log_q = log_softmax(step + self.chain.log_marginal(x0, s))
        log_p = log_softmax(step + self.chain.log_mix(self.leave_one_out(out, z, t), s))
        return self.num_steps * divergence(log_q, log_p)

    def bound_terms(self, key, model, x0, u):
        t = self.time(u)
        z = self.corrupt(key, x0, t)
        loss = self.loss_of(model, x0, z, t)
        first = jnp.round(t * self.num_steps) == 1
        terms = {
            "diffusion": jnp.where(first, 0, loss),
            "reconstruction": jnp.where(first, loss, 0),
        }
        return terms | self.prior_term(x0, loss.dtype)


def _interpolation(kernel: ClosedKernel, vocab_size: int, betas: np.ndarray):
    """The distribution of a closed kernel at times k / T, from tables of T + 1 numbers made in
    float64."""
    with np.errstate(divide="ignore"):
        log_kept = np.append(0.0, np.log1p(-betas))  # of each step, k = 0..T
        log_keep = np.cumsum(log_kept)
        log_moved = np.log(np.append(0.0, betas))
        log_move = np.log(-np.expm1(log_keep))
    # The tables are float32 in the program: what that drops of log_keep is a table of its own.
    high = log_keep.astype(np.float32).astype(np.float64)
    low = np.where(np.isinf(high), 0, log_keep - np.where(np.isinf(high), 0, high))
    T = len(betas)

    def index(t):
        return jnp.round(t * T).astype(jnp.int32)

    def at(table, k):
        return jnp.asarray(table)[k]

    def keep(t):
        return Keep(at(log_keep, index(t)), at(log_move, index(t)))

    def step(t, s):
        now, then = index(t), index(s)
        rest = at(low, now) - at(low, then)
        several = jnp.minimum(log_divide(at(high, now), at(high, then)) + rest, 0)
        one = now == then + 1
        kept = jnp.where(one, at(log_kept, now), several)
        return Keep(kept, jnp.where(one, at(log_moved, now), log1mexp(several)))

    return Interpolation(kernel, vocab_size, keep, step)
