"""Tokens that a run never draws, such as the mask of an imported network, whichever sampler is asked."""

from collections.abc import Sequence

from experiments.config import Experiment
from experiments.errors import UserError
from experiments.overrides import leaves, override
from samplers.sampler import Sampler

_SETTING = "logits_processor.banned"


def never_drawn(sampler: Sampler) -> set[int]:
    """The numbers of the tokens that a sampler, or one inside of it, never draws."""
    processors = [vars(layer).get("logits_processor") for layer in sampler.layers]
    return {token for processor in processors if processor for token in processor.banned}


def changed(experiment: Experiment, changes: Sequence[str]) -> Experiment:
    """The experiment with the changes, as of --set; another sampler does not draw either what its own
    never draws, unless a change says what is banned. UserError where it has no such setting."""
    after = override(experiment, changes)
    never = never_drawn(experiment.sampler) - never_drawn(after.sampler)
    if not never or any(f"{_SETTING}=" in change for change in changes):
        return after
    paths = [path for path in leaves(after.sampler) if f".{path}".endswith(f".{_SETTING}")]
    if not paths:
        raise UserError(
            f"sampler {type(after.sampler).__name__} cannot leave out tokens, and this run never draws "
            f"{', '.join(map(str, sorted(never)))}; choose another sampler"
        )
    banned = tuple(sorted(never | never_drawn(after.sampler)))
    return override(after, [f"sampler.{paths[0]}={banned}"])
