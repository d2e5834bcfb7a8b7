"""UDLM: uniform diffusion in continuous time (Schiff et al., arXiv 2412.10193).

With xbar = V alpha e_x + 1 - alpha and the same for the network's distribution c in place of e_x,

    -log p(x0) <= E_t -alpha' / (V alpha) [ V / xbar_c[z] - V / xbar[z]
                      + sum_j xbar[j] / xbar[z] log( xbar_c[z] xbar[j] / (xbar_c[j] xbar[z]) ) ]

and boundary terms. This is the limit of T KL(q(z_s | z_t, x0) || p(z_s | z_t)) and the score entropy
of the score that c implies; it is computed as that (`diffusion.score_entropy`). The bound is tight for
the leave-one-out distribution c = p(x0^i | z_t without z_t^i), not for the posterior p(x0^i | z_t),
though the paper calls c the denoiser: on one token of 1.537 nats the posterior in this formula gives
2.33. head="posterior" takes the network as p(x0^i | z_t) and converts.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from diffusion.kernels import Uniform
from diffusion.markov import ContinuousMarkovProcess, Head
from diffusion.numerics import log_softmax
from diffusion.process import Kind
from diffusion.schedules import Linear, Schedule
from diffusion.score_entropy import excess_of_distribution, uniform_entropy


@dataclass(frozen=True)
class UDLM(ContinuousMarkovProcess):
    """The uniform process in continuous time."""

    vocab_size: int | None = None
    schedule: Schedule = Linear()
    head: Head = "leave_one_out"
    kernel: ClassVar[Uniform] = Uniform()
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        self.check_schedule()

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        log_c = log_softmax(self.leave_one_out(out, z, t))
        excess = excess_of_distribution(log_c, x0, z, self.log_kappa(t))
        return self.rate(t) * uniform_entropy(excess, x0, z, self.log_kappa(t))
