"""Small states in checkpoints, and what the tests of them do."""

import subprocess
import sys
from contextlib import contextmanager

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import on_devices

from experiments.errors import UserError
from experiments.training.checkpoints import Checkpoints

STATE = """
import os, sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from experiments.training.checkpoints import Checkpoints
from experiments.training.digests import digest
"""


def make_state(seed=0, width=64):
    """{params, ema, opt_state, step, key} with a bf16 leaf and adamw moments that are not zero."""
    rng = np.random.default_rng(seed)
    params = {
        "layers": {"kernel": jnp.asarray(rng.normal(size=(32, width)), jnp.float32)},
        "bias": jnp.asarray(rng.normal(size=(width,)), jnp.bfloat16),
    }
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    _, opt_state = optimizer.update(params, optimizer.init(params), params)
    ema = jax.tree.map(lambda x: x * 2, params)
    step = jnp.int32(7 + seed)
    return {"params": params, "ema": ema, "opt_state": opt_state, "step": step}


def abstract(state):
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def saved(directory, steps=(1,), **options):
    """The checkpoints of make_state(step) at each step, all written."""
    with Checkpoints(directory, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, make_state(step), {"position": step})
    return checkpoints


@contextmanager
def one_line():
    with pytest.raises(UserError) as caught:
        yield caught
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def files(directory):
    return sorted(p for p in directory.rglob("*") if p.is_file())


def snapshot(directory):
    return {p: (p.read_bytes() if p.is_file() else None) for p in sorted(directory.rglob("*"))}


def python(code, *args, devices=1, **options):
    """The finished process that ran the code, with that many virtual CPU devices."""
    command = [sys.executable, "-c", STATE + code, *map(str, args)]
    return subprocess.run(
        command, env=on_devices(devices), capture_output=True, text=True, **options
    )
