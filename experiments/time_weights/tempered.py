"""A power of the bound's weight of masked tokens.

The bound weighs a masked token by w(t) = -alpha'(t) / (1 - alpha(t)), which has no limit where few are
masked: the gradient is noisy there. With w(t)^power it is less so, and each time still has the same
best answer, p(x0 | z_t): of a network that can give it at all times, the minimum does not move.
"""

from dataclasses import dataclass

from diffusion.process import Process, mask_schedule
from diffusion.schedules import masked_weight
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class Tempered(TimeWeight):
    """For processes that mask all tokens alike, in continuous time: MDLM, SEDD with masks.

    power: of the bound's weight w(t); 1 is the bound's, 0 counts each masked token alike.
    """

    power: float = 0.5

    def __post_init__(self):
        if not 0 <= self.power <= 1:
            raise ValueError(f"Tempered.power = {self.power} is outside [0, 1]")

    def __call__(self, process, u, x0, key):
        schedule = mask_schedule(process)
        assert isinstance(process, Process)  # `mask_schedule`
        return masked_weight(schedule, process.time(u)) ** (self.power - 1)

    def check(self, process):
        mask_schedule(process)
        if process.traits.own_loss:
            raise ValueError(
                f"{type(process).__name__} is trained with a loss of its own, without these weights"
            )
