"""UDLM: uniform diffusion in continuous time (Schiff et al., arXiv 2412.10193), or towards any pi.

A token is kept with probability alpha and else drawn anew from pi > 0, in the paper 1 / V. With

    xbar = alpha e_x + (1 - alpha) pi

and xbar_c the same of the network's distribution c in place of e_x,

    -log p(x) <= E_t -alpha' / alpha sum_(y != z) pi_z [ s_y - r_y - r_y log(s_y / r_y) ],
                 r_y = xbar[y] / xbar[z],    s_y = xbar_c[y] / xbar_c[z],

and boundary terms. It is the limit of T KL(q(z_s | z_t, x0) || p(z_s | z_t)), and the score entropy of
the score that c implies, as which it is computed (`diffusion.score_entropy`). xbar and xbar_c have the
sum 1, and so for pi = 1 / V it is the paper's

    E_t -alpha' / (V alpha) [ 1 / xbar_c[z] - 1 / xbar[z]
                              + sum_y xbar[y] / xbar[z] log( xbar_c[z] xbar[y] / (xbar_c[y] xbar[z]) ) ].

The bound is tight for the leave-one-out distribution c = p(x0^i | z_t without z_t^i), not for the
posterior p(x0^i | z_t), though the paper calls c the denoiser: on one token of 1.537 nats the posterior
in this formula gives 2.33. head="posterior" takes the network as p(x0^i | z_t) and converts.
"""

from dataclasses import dataclass
from typing import ClassVar

from jax import Array

from diffusion.kernels import Redrawing, Uniform
from diffusion.markov import ContinuousMarkovProcess, Head
from diffusion.numerics import log_softmax
from diffusion.process import Kind
from diffusion.schedules import Linear, Schedule
from diffusion.score_entropy import excess_of_distribution, redrawn, redrawn_entropy


@dataclass(frozen=True)
class UDLM(ContinuousMarkovProcess):
    """The process in continuous time whose noise draws tokens anew.

    kernel: from which pi, Uniform as in the paper, or Unigram or Stationary (`diffusion.stationary`).
    """

    vocab_size: int | None = None
    schedule: Schedule = Linear()
    head: Head = "leave_one_out"
    kernel: Redrawing = Uniform()
    likelihood: ClassVar[Kind] = "bound"

    def __post_init__(self):
        if not isinstance(self.kernel, Redrawing):
            raise ValueError(
                f"UDLM.kernel = {type(self.kernel).__name__} does not draw tokens anew; use Uniform, "
                "Unigram or Stationary, or D3PM, which takes any kernel"
            )
        self.check_noise()

    def token_loss(self, out: Array, x0: Array, z: Array, t: Array) -> Array:
        log_c = log_softmax(self.leave_one_out(out, z, t))
        noise = redrawn(self.log_odds(t), self.kernel.log_pi(self.num_tokens))
        excess = excess_of_distribution(log_c, x0, z, noise)
        return self.rate(t) * redrawn_entropy(excess, x0, z, noise)
