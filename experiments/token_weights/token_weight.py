"""How much each token counts in the training loss: a frozen dataclass of settings in a file of its own,
chosen by `--set train.token_weight=NAME`. The bound that is reported never changes."""

from abc import ABC, abstractmethod
from dataclasses import Field
from typing import Any, ClassVar

from jax import Array


class TokenWeight(ABC):
    """Weights of the tokens of a batch, in training alone."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings

    @abstractmethod
    def __call__(self, x0: Array, nats: Array, reference: Array | None = None) -> Array:
        """(B, L): by how much the loss of each token is multiplied.

        x0: the tokens (B, L). nats: the terms of the process's loss (B, L), for MDLM the weight of the
        time times the cross-entropy, 0 where a token is not masked; no gradient flows through them.
        reference: the same of a reference run; None at present. The weighted loss is divided by the
        number of tokens: weights are not normalised.
        """
