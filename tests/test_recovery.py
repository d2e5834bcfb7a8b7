"""Bad steps: skipped, counted, rolled back, and told; and no compilation but at the start."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_programs import arrays, metrics
from test_training import batch, experiment

from configs.smoke import get_config
from diffusion.mdlm import MDLM
from experiments import serialization
from experiments.errors import Diverged
from experiments.overrides import override
from experiments.training import recovery, trainer
from experiments.training.checkpoints import Checkpoints
from experiments.training.digests import digest
from experiments.training.train_step import init_state, make_train_step

TINY = (
    "model.num_layers=1",
    "model.width=16",
    "train.batch_size=4",
    "train.num_steps=16",
    "train.log_every=4",
    "train.checkpoint_every=4",
    "train.eval_every=8",
    "train.rollback_after=3",
    "evaluation.max_sequences=8",
)


@dataclasses.dataclass(frozen=True)
class Poisoned(MDLM):
    """The loss of a row of one letter alone is not finite."""

    def loss(self, key, model, x0, u):
        loss = super().loss(key, model, x0, u)
        return jnp.where((x0 == x0[:, :1]).all(1, keepdims=True), jnp.nan, loss)


def poisoned(*settings):
    return dataclasses.replace(experiment(*TINY, *settings), process=Poisoned(27))


@functools.cache
def programs(e):
    return jax.jit(lambda: init_state(e)), jax.jit(make_train_step(e))


def steps(e, batches):
    init, step = programs(e)
    state = init()
    for tokens in batches:
        state, _ = step(state, tokens)
    return state


HEALTHY = """
import json, os, sys
os.environ["XLA_FLAGS"] = ""
sys.path.insert(0, sys.argv[1])
from test_recovery import TINY, batch, digest, experiment, steps
for setting in ("skip_bad=False", "max_grad_ratio=1e6"):  # which skips what is not finite, too
    e = experiment(*TINY, f"train.{setting}")
    print(json.dumps(digest(steps(e, [batch(e, n) for n in range(3)]))))
"""


@pytest.mark.representatives()
def test_healthy_steps_are_bit_identical_with_and_without_the_check():
    env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    env["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"  # as users compile
    here = os.path.dirname(__file__)
    code = [sys.executable, "-c", HEALTHY, here]
    done = subprocess.run(code, env=env, capture_output=True, text=True, cwd=os.path.dirname(here))
    assert done.returncode == 0, done.stderr
    off, on = map(json.loads, done.stdout.splitlines())
    assert {name for name in off if off[name] != on[name]} == {"health/norm"}


def test_a_bad_step_changes_counts_alone_and_the_next_one_goes_on():
    e = poisoned("train.rollback_after=2")
    good = [batch(e, n) for n in range(3)]
    bad = jnp.zeros_like(good[0])
    before, after = steps(e, good[:2]), steps(e, [*good[:2], bad])
    a, b = digest(before), digest(after)
    assert {name for name in a if a[name] != b[name]} == {"step", "health/bad", "health/skipped"}
    assert int(after["step"]) == 3 and int(after["health"]["skipped"]) == 1
    last = steps(e, [*good[:2], bad, good[2]])
    assert int(last["health"]["bad"]) == 0 and int(last["health"]["skipped"]) == 1
    assert digest(last["params"]) != digest(before["params"])
    assert float(last["totals"]["steps"]) == 3 and np.isfinite(float(last["totals"]["loss"]))


def test_after_enough_bad_steps_in_a_row_good_ones_change_nothing():
    e = poisoned("train.rollback_after=2")
    bad = jnp.zeros_like(batch(e))
    stuck = steps(e, [batch(e), bad, bad])
    later = steps(e, [batch(e), bad, bad, batch(e, 1), batch(e, 2)])
    assert digest(stuck["params"]) == digest(later["params"])
    assert int(later["health"]["bad"]) == 4


def after_step(train, step, grad_norm, **health):
    """(1 if the new is kept, health) of a step of this gradient norm."""
    state = {"step": jnp.int32(step), "health": recovery.zero_health() | health}
    keep, health = recovery.checked_step(train, state, jnp.float32(1), jnp.float32(grad_norm))
    return int(keep(0, 1)), health


def test_a_gradient_far_above_its_mean_is_bad_where_asked(monkeypatch):
    monkeypatch.setattr(recovery, "_SETTLED", 3)
    for ratio, new in [(None, 1), (1.9, 0), (2.1, 1)]:
        train = dataclasses.replace(experiment().train, max_grad_ratio=ratio)
        before = {"norm": jnp.float32(1.0), "skipped": jnp.int32(1)}
        kept, health = after_step(train, 5, 2.0, **before)
        assert (kept, int(health["bad"]), int(health["skipped"])) == (new, 1 - new, 2 - new)
        assert float(health["norm"]) == pytest.approx(1.2 if new else 1.0)
        assert after_step(train, 3, 2.0, **before)[0] == 1  # 2 good steps, too few to know


def test_the_running_mean_of_the_first_norms_is_their_mean():
    health = recovery.zero_health()
    for step, norm in enumerate((1.0, 2.0, 6.0)):
        _, health = after_step(experiment().train, step, norm, **health)
    assert float(health["norm"]) == pytest.approx(3.0)


def test_a_rollback_changes_keys_and_order_and_none_changes_neither():
    key = jax.random.key(3)
    keys = [recovery.run_key(3, jnp.int32(retry)) for retry in range(3)]
    assert (jax.random.key_data(keys[0]) == jax.random.key_data(key)).all()
    assert len({jax.random.key_data(k).tobytes() for k in map(jax.device_get, keys)}) == 3
    assert recovery.data_seed(7, 0) == 7
    assert len({recovery.data_seed(7, retry) for retry in range(4)}) == 4


@pytest.fixture
def poison(monkeypatch):
    """poison(steps, retries): the batches of these steps are poisoned in so many orders of the data."""

    def set_up(bad, retries=1):
        real = trainer.training_batches
        seeds = [recovery.data_seed(0, n) for n in range(retries)]

        def batches(text, length, batch_size, seed, *, start=0, **options):
            for n, (rows, given) in enumerate(
                real(text, length, batch_size, seed, start=start, **options), start + 1
            ):
                yield rows * (n not in bad or seed not in seeds), given

        monkeypatch.setattr(trainer, "training_batches", batches)

    return set_up


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """A run of this file's process can be read back."""
    monkeypatch.setattr(
        serialization, "_MODULES", re.compile(f"{serialization._MODULES.pattern}|{__name__}")
    )


def run(workdir, *settings):
    lines = []
    e = dataclasses.replace(override(get_config(), [*TINY, *settings]), process=Poisoned())
    trainer.train(e, workdir, lines.append)
    return lines


def test_single_bad_steps_are_skipped_and_counted_in_the_metrics(tmp_path, poison):
    poison({2, 3, 7})
    lines = run(tmp_path)
    counts = {m["step"]: m["train/skipped_steps"] for m in metrics(tmp_path) if "train/tokens" in m}
    assert counts == {4: 2, 8: 3, 12: 3, 16: 3}
    assert all(m.get("train/rollbacks", 0) == 0 for m in metrics(tmp_path))
    assert any("2 bad steps skipped" in line for line in lines)


def test_bad_steps_in_a_row_roll_back_to_another_order_and_resume_stays_exact(tmp_path, poison):
    poison({10, 11, 12, 13})
    lines = run(tmp_path / "a")
    (line,) = [x for x in lines if "back to step" in x]
    assert "in steps 10 to 1" in line and "back to step 8" in line and "rollback 1 of 3" in line
    later = [m for m in metrics(tmp_path / "a") if m["step"] > 8 and "train/tokens" in m]
    assert {m["train/rollbacks"] for m in later} == {1}
    again = run(tmp_path / "b", "train.num_steps=12")
    assert len([x for x in again if "back to step" in x]) == 1
    retry = digest({"health": {"retry": jnp.int32(1)}})
    assert retry.items() <= arrays(tmp_path / "b", 12).items()
    assert not any("back to step" in x for x in run(tmp_path / "b"))
    assert arrays(tmp_path / "a", 16) == arrays(tmp_path / "b", 16)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    # When it is looked at has no influence either.
    run(tmp_path / "c", "train.log_every=1")
    assert arrays(tmp_path / "a", 16).items() - arrays(tmp_path / "c", 16).items() <= {
        x for x in arrays(tmp_path / "a", 16).items() if x[0].startswith("totals")
    }


def test_rollbacks_that_do_not_help_end_with_one_line(tmp_path, poison):
    poison(range(9, 99), retries=9)
    with pytest.raises(Diverged) as caught:
        run(tmp_path, "train.max_rollbacks=2")
    assert re.search(
        r"in steps 9 to \d+, and 2 rollbacks did not help.*lower optimizer", str(caught.value)
    )
    assert "\n" not in str(caught.value)
    assert Checkpoints(tmp_path / "checkpoints").latest() == 8


def test_bad_steps_before_any_checkpoint_end_with_one_line(tmp_path, poison):
    poison(range(2, 99), retries=9)
    with pytest.raises(Diverged, match=r"in steps 2 to .*there is no checkpoint before"):
        run(tmp_path)
    assert Checkpoints(tmp_path / "checkpoints").steps() == []


def test_nothing_compiles_after_the_first_interval_with_saves_evaluations_and_a_rollback(
    tmp_path, poison
):
    compiled, counts = [], []
    listener = lambda event, seconds, **_: compiled.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    try:
        poison({41, 42, 43})
        e = dataclasses.replace(
            override(get_config(), [*TINY, "train.num_steps=60"]), process=Poisoned()
        )
        count = lambda: sum(x == "/jax/core/compile/backend_compile_duration" for x in compiled)  # noqa: E731
        trainer.train(e, tmp_path, lambda line: counts.append((line, count())))
    finally:
        jax.monitoring.unregister_event_duration_listener(listener)
    assert any("back to step 40" in line for line, _ in counts)
    start = next(n for line, n in counts if line.startswith("step 16/"))
    assert start > 0 and counts[-1][1] == start, counts
