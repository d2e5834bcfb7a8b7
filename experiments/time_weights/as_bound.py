"""Every time as the bound weighs it."""

from dataclasses import dataclass

from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class AsBound(TimeWeight):
    """The loss is the bound's estimate."""

    def __call__(self, process, u, x0, key):
        return 1.0
