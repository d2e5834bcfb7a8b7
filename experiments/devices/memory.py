"""Whether states on the simplex, which have V numbers a position, fit into memory."""

import os

import jax

from diffusion.process import Process
from diffusion.spaces import Simplex
from experiments.config import Experiment
from experiments.devices.sharding import batch_shards
from experiments.errors import UserError

_COPIES = 6  # the state, its noise, the network's output, its softmax, and gradients of the two


def check_memory(experiment: Experiment, rows: int, mesh, setting: str) -> None:
    """UserError where batches of `rows` sequences (what `setting` says) of simplex states do not fit
    into a device, by an estimate of their own arrays alone."""
    process = experiment.process
    if not (isinstance(process, Process) and isinstance(process.space, Simplex)):
        return
    rows, length = -(-rows // batch_shards(mesh)), experiment.data.length
    size = experiment.process.vocab_size
    needed, available = _COPIES * 4 * rows * length * size, device_memory()
    if needed > available:
        raise UserError(
            f"{type(experiment.process).__name__}: {_COPIES} arrays of {rows} sequences x {length} "
            f"positions x {size} tokens take {needed / 1e9:.1f} GB, and the device has "
            f"{available / 1e9:.1f} GB; lower {setting} or data.length, use more devices or a smaller "
            "alphabet"
        )


def device_memory() -> int:
    """Bytes of a device's memory, or its share of the host's where it does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", host // jax.local_device_count())
