"""What a run does about bad steps and damaged checkpoints.

A step is bad if its loss or the norm of its gradient is not finite, or if the norm is more than
`train.max_grad_ratio` times its running mean. The compiled step then changes nothing but the counts in
state["health"]. After `train.rollback_after` bad steps in a row every further step is bad too, so what
follows does not depend on when the host looks: it goes back to the newest checkpoint, with another
number `retry` in the seeds of the data and of the steps. No state is saved amid bad steps.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.config import Train
from experiments.devices.distributed import first_says
from experiments.errors import Diverged, UserError
from experiments.training.checkpoints import Checkpoints, CorruptCheckpoint

_SETTLED = 100  # good steps before a norm is compared with its mean
_DECAY = 0.99


def zero_health() -> dict:
    """Bad steps in a row and in all, the running mean of good gradient norms, how many rollbacks."""
    return {
        "bad": jnp.zeros((), jnp.int32),
        "skipped": jnp.zeros((), jnp.int32),
        "norm": jnp.zeros(()),
        "retry": jnp.zeros((), jnp.int32),
    }


def run_key(seed: int, retry: jax.Array) -> jax.Array:
    """The key of all steps: that of the seed, and another one after each rollback."""
    first = jax.random.key(seed)
    again = jax.random.fold_in(first, retry)
    data = jnp.where(retry > 0, jax.random.key_data(again), jax.random.key_data(first))
    return jax.random.wrap_key_data(data)


def data_seed(seed: int, retry: int) -> int:
    """The seed of the order of examples: the run's, and another one after each rollback."""
    return int(np.random.SeedSequence([seed, retry]).generate_state(1)[0]) if retry else seed


def checked_step(
    train: Train, state: dict, loss: jax.Array, grad_norm: jax.Array
) -> tuple[Callable[[Any, Any], Any], dict[str, jax.Array]]:
    """(keep, health): keep(old, new) is `new`, or `old` if this step is bad; and the new "health"."""

    health = state["health"]
    if not train.skip_bad:
        return lambda old, new: new, health
    good_before = state["step"] - health["skipped"]
    bad = ~jnp.isfinite(loss + grad_norm) | (health["bad"] >= train.rollback_after)
    if train.max_grad_ratio is not None:
        spike = grad_norm > train.max_grad_ratio * health["norm"]
        bad |= spike & (good_before >= _SETTLED)
    decay = jnp.minimum(_DECAY, good_before / (good_before + 1))
    norm = decay * health["norm"] + (1 - decay) * grad_norm

    def keep(old, new):
        # Element by element, as part of the update: a conditional would copy the state.
        return jax.tree.map(lambda a, b: jnp.where(bad, a, b), old, new)

    return keep, {
        "bad": jnp.where(bad, health["bad"] + 1, 0),
        "skipped": health["skipped"] + bad,
        "norm": jnp.where(bad, health["norm"], norm),
        "retry": health["retry"],
    }


@dataclass(frozen=True)
class Rollback:
    """Bad steps in a row, `bad` of them up to `step`, after `retry` rollbacks."""

    step: int
    bad: int
    retry: int

    def due(self, config: Train, checkpoints: Checkpoints, log: Callable[[str], None]) -> int:
        """The number of the rollback that is now due; Diverged where there is to be no other."""
        checkpoints.wait()
        newest = checkpoints.latest()
        spike = (
            f" or above {config.max_grad_ratio:g} times its mean" if config.max_grad_ratio else ""
        )
        what = (
            f"the loss or the gradient norm is not finite{spike} in steps {self.step - self.bad + 1} to "
            f"{self.step}"
        )
        if newest is None or self.retry >= config.max_rollbacks:
            why = (
                f"{self.retry} rollbacks did not help"
                if newest is not None
                else "there is no checkpoint before"
            )
            raise Diverged(
                f"{what}, and {why}; nothing of it is saved; lower optimizer.schedule.peak_lr or raise "
                "optimizer.schedule.warmup_steps and run again, in another workdir"
            )
        log(
            f"{what}; back to step {newest} with another order of the data, rollback "
            f"{self.retry + 1} of {config.max_rollbacks}"
        )
        return self.retry + 1


def newest_state(
    checkpoints: Checkpoints, like: dict, check: Callable[[dict], None], log: Callable[[str], None]
) -> tuple[dict, int] | None:
    """(state, step) of the newest checkpoint that is not damaged, or None where there is none at all.

    like: as of `Checkpoints.restore`; check(meta) may raise. Corrupt ones are set aside, and
    said. UserError where all are damaged; they stay where they are.
    """
    damaged = {}
    for step in reversed(first_says(checkpoints.steps())):
        try:
            check(checkpoints.meta(step))
            state = _restored(checkpoints, step, like)
            break
        except CorruptCheckpoint as error:
            damaged[step] = error.what
    else:
        if not damaged:
            return None
        named = "; ".join(f"{step}: {what}" for step, what in damaged.items())
        raise UserError(
            f"every checkpoint in {checkpoints.directory} is damaged ({named}); restore one from a "
            "copy, or train again in another --workdir"
        )
    for bad, what in damaged.items():
        aside = checkpoints.quarantine(bad)
        log(
            f"checkpoint {bad} is damaged ({what}) and kept as {aside}; continuing from step {step}"
        )
    return state, step


def _restored(checkpoints: Checkpoints, step: int, like: dict) -> dict:
    if checkpoints.has(step, "health"):
        return checkpoints.restore(step, like)
    # Versions before this one did not save it.
    state = checkpoints.restore(step, {k: v for k, v in like.items() if k != "health"})
    shardings = jax.tree.map(lambda x: x.sharding, like["health"])
    return state | {"health": jax.jit(zero_health, out_shardings=shardings)()}
