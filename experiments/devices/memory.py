"""Whether a program fits into memory, as its compiler counts, before it runs."""

import contextlib
import math
import os
from pathlib import Path

import jax

from experiments.devices.distributed import anywhere
from experiments.devices.sharding import batch_shards
from experiments.errors import UserError, shortened

_SHARE = 0.9  # of the memory, in what is said to fit
_TOO_LARGE = ("RESOURCE_EXHAUSTED", "2147483647")  # in the text of XLA's errors, which have no code
_CGROUPS = Path("/sys/fs/cgroup")


def check_program(
    lowered: jax.stages.Lowered,
    rows: int,
    length: int,
    mesh: jax.sharding.Mesh,
    setting: str,
    of_length: str = "data.length",
) -> int:
    """The bytes that a program of `rows` sequences (what `setting` says) of `length` positions (what
    `of_length` says) takes of a device, 0 where its compiler does not tell; UserError, in all processes,
    where the device has less. The program is compiled here; jax keeps it for the call."""
    needed = 0
    try:
        size = lowered.compile().memory_analysis()
        needed = _needed(size) if size else 0
        message = size and _too_large(size, rows, length, batch_shards(mesh), setting, of_length)
    except jax.errors.JaxRuntimeError as error:
        if not any(word in str(error) for word in _TOO_LARGE):
            raise
        message = (
            f"{rows:,} sequences x {length:,} positions at a time are more than the compiler takes "
            f"({shortened(str(error))}); lower {setting} or {of_length}"
        )
    if anywhere(bool(message)):
        raise UserError(message or f"the memory of another process is too small; lower {setting}")
    return needed


def _needed(size) -> int:
    made = size.output_size_in_bytes - size.alias_size_in_bytes
    return size.argument_size_in_bytes + made + size.temp_size_in_bytes


def _too_large(size, rows: int, length: int, shards: int, setting: str, of_length: str) -> str:
    """What to say of a program of this size; "" where it fits."""
    held, needed, available = size.argument_size_in_bytes, _needed(size), device_memory()
    if needed <= available:
        return ""
    # All but the state grows with the rows; the arguments hold tokens and segments of 4 bytes.
    growing = needed - max(0, held - 8 * rows // shards * length)
    share = max(0.0, (_SHARE * available - (needed - growing)) / growing)
    fitting = math.floor(rows / shards * share) * shards
    if fitting:
        advice = f"some {fitting:,} fit: lower {setting}"
    elif share:
        shorter = max(1, math.floor(length * math.sqrt(share * rows / shards)))
        advice = f"not even one fits for each device: lower {of_length} to some {shorter:,}"
    else:
        advice = "take a smaller model, or spread it over more devices with mesh.fsdp"
    return (
        f"{rows:,} sequences x {length:,} positions at a time take {needed / 1e9:,.1f} GB of memory "
        f"on a device, which has {available / 1e9:,.1f} GB; {advice}"
    )


def device_memory() -> int:
    """Bytes of a device's memory, or its share of the host's where it does not tell."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit", host_memory() // jax.local_device_count())


def host_memory() -> int:
    """Bytes that a process may take: the machine's memory and swap, and no more than its cgroup's."""
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [pages + _swap()]
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:  # version 2
                limits += _limits(_CGROUPS, path, ("memory.max", "memory.high"))
            elif "memory" in controllers.split(","):
                limits += _limits(_CGROUPS / "memory", path, ("memory.limit_in_bytes",))
    return min(limits)


def _limits(root: Path, path: str, names: tuple[str, ...]) -> list[int]:
    """The limits of a cgroup and of those above it; in a container it sees itself as the root."""
    inner = root / path.lstrip("/")
    limits = []
    for folder in (inner, *inner.parents):
        for name in names:
            with contextlib.suppress(OSError, ValueError):  # "max" is no limit
                limits.append(int((folder / name).read_text()) + _swap())
        if folder == root:
            break
    return limits


def _swap() -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("SwapTotal:"):
                return int(line.split()[1]) * 1024
    return 0
