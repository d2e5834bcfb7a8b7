"""Training on examples drawn on the device, for experiments whose data is a known distribution."""

import math
from collections.abc import Callable
from functools import partial

import jax

from experiments.config import Experiment
from experiments.errors import Diverged
from experiments.training.train_step import init_state, make_train_step, zero_totals

_CHUNK = 100  # steps in one compiled program
_DATA = 2**31 - 1  # number of the data's key, no step's own


def fit(
    experiment: Experiment, draw: Callable[[jax.Array], tuple], log: Callable[[str], None]
) -> tuple[dict, float]:
    """(the averaged parameters, mean loss of the last steps) after train.num_steps steps.

    draw(key) -> (tokens (B, L), what is given of them, {} or {"label": (B,)}), of train.batch_size rows.
    Raises Diverged for a loss that is not finite.
    """
    settings, step = experiment.train, make_train_step(experiment)
    key = jax.random.fold_in(jax.random.key(settings.seed), _DATA)

    def one(_, state):
        drawn = draw(jax.random.fold_in(key, state["step"]))
        return step(state, *jax.tree.map(lambda array: array[None], drawn))[0]

    @partial(jax.jit, donate_argnums=0)
    def chunk(state, steps):
        return jax.lax.fori_loop(0, steps, one, state | {"totals": zero_totals()})

    state, loss = jax.jit(lambda: init_state(experiment))(), math.nan
    for first in range(0, settings.num_steps, _CHUNK):
        last = min(first + _CHUNK, settings.num_steps)
        state = chunk(state, last - first)
        loss = float(state["totals"]["loss"] / state["totals"]["steps"])
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} in the {last - first} steps after step {first}")
        if last * 5 // settings.num_steps > first * 5 // settings.num_steps:
            log(f"step {last}/{settings.num_steps}  loss {loss:.4f}")
    return state["ema"], loss
