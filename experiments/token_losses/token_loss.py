"""What the loss of a token is made into, of its logits: a frozen dataclass of settings in a file of its
own, chosen by `--set train.token_loss=NAME`. The bound that is reported never changes.

A process's integrand f(out, x0) of one position is for most a weight times the cross-entropy,
w * -log softmax(out)[x0]: of masked processes w is that of the time, from left to right it is 1. A loss
of tokens gets f and w, and says what is minimised instead. Where f is another function (UDLM, GIDD with
uniform noise), w is what it charges the uniform distribution, over log V.

`inner` is the loss that another one is applied to: `--set train.token_loss=ZLoss --set
train.token_loss.inner=LabelSmoothing` has both.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import Field, dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from diffusion.model import Model, at_positions, given
from diffusion.process import Objective
from experiments.errors import UserError


class TokenLoss(ABC):
    """The loss of a token by its logits, in training alone."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings

    @abstractmethod
    def __call__(self, nats: Array, out: Array, x0: Array, weight: Array) -> Array:
        """(B, L): the loss of each position, from that position alone.

        nats: the process's integrand f (B, L), or what `inner` made of it. out: logits (B, L, V). x0:
        tokens (B, L). weight: w (B, L), 0 where a position costs nothing. Gradients flow through all of
        it. With a large vocabulary B, L are a chunk of the positions: no mean over them has a meaning.
        """

    def applied(self, model: Model) -> Model:
        """The model whose losses (`diffusion.model.at_positions`) are these."""
        return Applied(model, self)

    def check(self, process: Objective) -> None:
        """Nothing; ValueError where the process does not take its loss from logits of tokens."""
        if not process.token_logits:
            raise ValueError(
                f"{type(process).__name__} as it is set does not take its loss from the logits of each "
                "token, as MDLM, UDLM and Autoregressive do"
            )


@dataclass(frozen=True)
class Applied:
    """A model whose positions cost what a loss of tokens makes of them.

    model: what it asks. loss: of its tokens.
    """

    model: Model
    loss: TokenLoss

    @property
    def segments(self) -> Array | None:
        """Those of the model, as of `diffusion.model.RowModel`."""
        return self.model.segments

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """Nothing: UserError, since a loss that is made of all logits at once would be left as it is."""
        raise UserError(
            "train.token_loss: the process makes its loss of all logits at once, not by at_positions; "
            "take ProcessLoss, or set token_logits = False in the class of the process"
        )

    def at(
        self, function: Callable[..., Array], where: Array | None, x0: Array, z: Array, t: Array
    ) -> Array:
        """As of `diffusion.model.PositionModel`."""

        def changed(out, x0, z, t):
            # A weight times the cross-entropy is that weight times log V where all logits are 0.
            weight = function(jnp.zeros_like(out), x0, z, t) / jnp.log(out.shape[-1])
            return self.loss(function(out, x0, z, t), out, x0, weight)

        return at_positions(self.model, changed, where, x0, z, t)

    def given(self, **condition: Array) -> "Applied":
        """As of `diffusion.model.PositionModel`."""
        return replace(self, model=given(self.model, **condition))
