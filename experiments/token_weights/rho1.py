"""Selective language modelling (Rho-1, Lin et al. 2024, arXiv 2404.07965): tokens worth learning.

    excess = nats of the model - nats of a reference run, at the same noisy state

Of each sequence the `share` of largest excess is learned from, among the tokens that cost anything (the
masked ones, of a process that masks), and counts for the others too: what the reference, trained on good
text, knows and the model does not yet. What both find hard is taken for noise. The paper ranks over a
batch from left to right; within a sequence all tokens have one time, whose weight so decides nothing.

The minimum is biased: towards the reference where the two differ, and what is left out for good is not
learned. The reference is `teacher`, a run of the same process, tokenizer and labels:

    --set train.token_weight=Rho1 --set teacher=Teacher --set teacher.workdir=RUN
    --set teacher.start_from=False     to draw parameters, and not begin with the reference's
"""

from dataclasses import dataclass
from typing import ClassVar

from experiments.token_weights.token_weight import TokenWeight, kept


@dataclass(frozen=True)
class Rho1(TokenWeight):
    """The tokens that a reference run knows better.

    share: of the tokens that cost anything, how many are learned from; published 0.6 to 0.7.
    """

    share: float = 0.6
    needs_reference: ClassVar[bool] = True

    def __post_init__(self):
        if not 0 < self.share <= 1:
            raise ValueError(f"Rho1.share = {self.share} is outside (0, 1]")

    def __call__(self, x0, nats, reference=None):
        assert reference is not None  # `needs_reference`
        return kept(nats - reference, nats != 0, self.share)
