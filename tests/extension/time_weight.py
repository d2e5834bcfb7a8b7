"""A weight of times of one's own: late times, where most is masked, count less.

ddlm train --config tests/extension/time_weight.py --workdir runs/own-time-weight
"""

from dataclasses import dataclass, replace

from configs import smoke
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class Early(TimeWeight):
    """(1 - u)^power; power: how much less."""

    power: float = 1.0

    def __call__(self, process, u, x0, key):
        return (1 - u) ** self.power


def get_config():
    base = smoke.get_config()
    return replace(base, train=replace(base.train, time_weight=Early()))
