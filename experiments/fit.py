"""Training on examples drawn on the device, for experiments whose data is a known law."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from experiments.config import Experiment
from experiments.train_step import init_state, make_train_step

CHUNK = 100  # steps in one compiled program


def fit(
    experiment: Experiment, draw: Callable[[jax.Array], tuple], log: Callable[[str], None]
) -> dict:
    """The averaged parameters after train.num_steps steps, rounded up to whole hundreds.

    draw(key) -> (tokens (B, L),), or with labels (tokens (B, L), labels (B,)), of train.batch_size rows.
    """
    step = make_train_step(experiment)
    key = jax.random.fold_in(jax.random.key(experiment.train.seed), 2**31 - 1)  # no step's own

    @partial(jax.jit, donate_argnums=0)
    def run(state, first):
        def one(state, number):
            drawn = draw(jax.random.fold_in(key, number))
            return step(state, *(array[None] for array in drawn))

        state, losses = jax.lax.scan(one, state, first + jnp.arange(CHUNK))
        return state, losses.mean()

    state = jax.jit(lambda: init_state(experiment))()
    steps = experiment.train.num_steps
    for first in range(0, steps, CHUNK):
        state, loss = run(state, first)
        if (first // CHUNK) % max(1, steps // CHUNK // 5) == 0 or first + CHUNK >= steps:
            log(f"step {first + CHUNK}/{steps}  loss {float(loss):.4f}")
    return state["ema"]
