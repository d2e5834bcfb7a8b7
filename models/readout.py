"""What the logits of tokens are made of: a hidden state and a vector for each token."""

from abc import ABC, abstractmethod
from dataclasses import Field, dataclass
from typing import Any, ClassVar

from jax import Array


class Readout(ABC):
    """A port of `Transformer`. An implementation is a frozen dataclass of settings."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]  # its fields are its settings
    has_bias: ClassVar[bool] = True
    """Whether each token may have a number of its own besides (`Transformer.head_bias`)."""

    @abstractmethod
    def __call__(self, x: Array, kernel: Array, bias: Array | None) -> Array:
        """Logits (N, V) of hidden states x (N, D), from the tokens' vectors, the columns of kernel (D,
        V), and numbers, bias (V,)."""


@dataclass(frozen=True)
class DotProduct(Readout):
    """x . w_v + b_v."""

    def __call__(self, x, kernel, bias):
        out = x @ kernel
        return out if bias is None else out + bias.reshape(1, -1)
