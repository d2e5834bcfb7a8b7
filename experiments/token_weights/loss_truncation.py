"""Loss truncation (Kang and Hashimoto 2020, arXiv 2004.14589), of tokens: the costliest are left out.

The paper leaves out the texts of largest loss, which are often noise; here it is the tokens of each
sequence, among those that cost anything (the masked ones, of a process that masks). What is kept counts
for the others too. Within a sequence all have one time, whose weight so decides nothing.

The minimum is biased: what the model finds improbable it is never taught, so that its distribution is
narrower than the data's. Begin with the parameters of a run that was trained without
(`init_from`), as the paper does: a model that knows nothing leaves out at random.
"""

from dataclasses import dataclass

from experiments.token_weights.token_weight import TokenWeight, kept


@dataclass(frozen=True)
class LossTruncation(TokenWeight):
    """Nothing from the costliest tokens of a sequence.

    share: of the tokens that cost anything, how many are left out.
    """

    share: float = 0.1

    def __post_init__(self):
        if not 0 <= self.share < 1:
            raise ValueError(f"LossTruncation.share = {self.share} is outside [0, 1)")

    def __call__(self, x0, nats, reference=None):
        return kept(-nats, nats != 0, 1 - self.share)
