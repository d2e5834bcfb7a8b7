"""Two weights of tokens at once."""

from dataclasses import dataclass

from experiments.token_weights.even import Even
from experiments.token_weights.token_weight import TokenWeight


@dataclass(frozen=True)
class Both(TokenWeight):
    """The product of two weights, each made of the same losses.

    first, second: the weights; either may be Both again.
    """

    first: TokenWeight = Even()
    second: TokenWeight = Even()

    @property
    def needs_reference(self) -> bool:
        """Whether either does."""
        return self.first.needs_reference or self.second.needs_reference

    def __call__(self, x0, nats, reference=None):
        return self.first(x0, nats, reference) * self.second(x0, nats, reference)
