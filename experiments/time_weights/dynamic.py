"""A weight of each noisy state, as the process was published with: GIDD's "dynamic" weights."""

from dataclasses import dataclass

from diffusion.process import StateWeighted
from experiments.time_weights.time_weight import TimeWeight


@dataclass(frozen=True)
class Dynamic(TimeWeight):
    """For processes that say how training weighs their states: GIDD."""

    def __call__(self, process, u, x0, key):
        assert isinstance(process, StateWeighted)  # `check`
        t = process.time(u)
        return process.training_weight(x0, process.corrupt(key, x0, t), t)

    def check(self, process):
        if not isinstance(process, StateWeighted):
            raise ValueError(f"{type(process).__name__} has no weights of its states, as GIDD has")
