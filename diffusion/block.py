"""Block diffusion (BD3-LM, arXiv 2503.09573): blocks from left to right, each made by diffusion.

    -log p(x0) = sum_b -log p(block b | blocks before) <= sum_b bound of the base process on block b,

where the network sees the noisy block and the clean ones before it. All blocks are trained in one pass,
model(z, t, context=x0) (`Transformer.apply`); every block has a time of its own. In a sequence these
times are shifted copies of one another, so that each block's are spread over the batch like the first's.

Block length 1 over a masked process is an autoregressive model that is also asked at times when its one
position is not masked (and costs nothing): the same bound, with a larger variance. Block length L is the
base process.

`clip` restricts the times of the training loss, which lowers the variance of the gradient (times near 0
have few masked tokens and large weights, near 1 nothing to learn from); the bound uses all times.
`python -m experiments.studies.gradient_noise` measures which interval is best for a run.

clip = (1, 1) is the base in one step: every block is asked for wholly masked, in training and in the
bound, and a token costs -log p(x0^i | blocks before). At block length 1 this is an autoregressive model
and its exact likelihood, without the variance of times; for longer blocks it is the likelihood of the
sampler that draws each block in one step, its tokens independently of each other.
"""

from dataclasses import dataclass, replace
from typing import Self

import jax.numpy as jnp
from jax import Array

from diffusion.mdlm import MDLM
from diffusion.model import Model, given
from diffusion.process import Composed, JumpProcess, Kind, Likelihood, Process, TimeIntegral, Traits


@dataclass(frozen=True)
class BlockDiffusion(Composed, Likelihood):
    """`base` on blocks of `block_length` tokens; the last block may be shorter.

    base: the process within a block, one on discrete states with a bound for each token. block_length:
    tokens of a block. clip: the interval of t that the training loss takes its times from; (1, 1) is one
    step a block, in the bound too.
    """

    base: TimeIntegral = MDLM()
    block_length: int = 4
    clip: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self):
        if self.block_length < 1:
            raise ValueError(
                f"BlockDiffusion.block_length = {self.block_length} must be at least 1"
            )
        if not (0 <= self.clip[0] < self.clip[1] <= 1 or self._one_step):
            raise ValueError(
                f"BlockDiffusion.clip = {self.clip} must rise within [0, 1], or be (1, 1) for one "
                "step a block"
            )
        bounded = isinstance(self.base, TimeIntegral) and self.base.likelihood == "bound"
        bounded = bounded and not self.base.traits.own_loss
        if not (bounded and isinstance(self.base, JumpProcess)):
            raise ValueError(
                f"BlockDiffusion.base = {type(self.base).__name__} is not a process on discrete states "
                "with a bound for each token; MDLM, D3PM, SEDD and UDLM are"
            )
        if self._one_step and not _goes_in_one_step(self.base):
            raise ValueError(
                f"BlockDiffusion.clip = {self.clip} is one step a block, which a base of masks that can "
                f"go in steps has, MDLM or D3PM, and {type(self.base).__name__} has not"
            )

    @property
    def _one_step(self) -> bool:
        return tuple(self.clip) == (1, 1)

    @property
    def traits(self) -> Traits:
        """`Objective.traits`: attention by blocks, and losses that are sums over a row."""
        return Traits(attention_block=self.block_length, whole_rows=True)

    @property
    def likelihood(self) -> Kind:
        """What the bound of the base is."""
        return self.base.likelihood

    @property
    def token_logits(self) -> bool:
        """Whether that of the base is made of logits."""
        return self.base.token_logits

    def init(self, key: Array) -> dict:
        return self.base.init(key)

    def bind(self, params: dict) -> Self:
        return replace(self, base=self.base.bind(params))

    def uniforms(self, u: Array, length: int) -> Array:
        """(B, L): for each block of each row a shifted u (B, 1), from (0, 1) as u is."""
        number = jnp.arange(length) // self.block_length
        shifted = u + (number / (number[-1] + 1))[None]
        return jnp.maximum(jnp.where(shifted >= 1, shifted - 1, shifted), 1e-7)

    def for_base(self, model, x0, u):
        return given(model, context=x0), self.uniforms(u, x0.shape[1])

    def loss(self, key: Array, model: Model, x0: Array, u: Array) -> Array:
        if self._one_step:
            model, u = self.for_base(model, x0, u)
            base, u = self._at_1(u)
            return base.loss(key, model, x0, u)
        return self.loss_within(key, model, x0, u, *self.clip)

    def loss_within(
        self, key: Array, model: Model, x0: Array, u: Array, low: float | Array, high: float | Array
    ) -> Array:
        """(B, L) nats: `Objective.loss` with times from (low, high), numbers or scalars."""
        model, u = self.for_base(model, x0, u)
        return self.base.loss(key, model, x0, low + (high - low) * u)

    def bound_terms(self, key: Array, model: Model, x0: Array, u: Array) -> dict[str, Array]:
        model, u = self.for_base(model, x0, u)
        base, u = self._at_1(u) if self._one_step else (self.base, u)
        return base.bound_terms(key, model, x0, u)

    def _at_1(self, u):
        """The base in one step, and its one time for all positions u (B, L)."""
        return self.base.in_steps(1), jnp.ones_like(u)


def _goes_in_one_step(base: Process) -> bool:
    """Whether the base reveals all that it masks in one step."""
    try:
        return base.known_tokens == "exact" and base.in_steps(1) is not None
    except ValueError:
        return False
