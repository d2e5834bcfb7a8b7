"""Measure the memory and time for importing a published checkpoint:

    python -m experiments.studies.import_memory --folder DIR --gigabytes 1

Writes a checkpoint in LLaDA's layout (bfloat16 safetensors in shards, with their index; random weights,
generated tensor by tensor) to DIR/checkpoint, imports it to DIR/run in a separate process, and prints
the memory and time used. "own" counts the process's anonymous pages; "resident" also counts pages of
mapped files in memory, which the system can reclaim when needed. Linux only.
"""

import json
import resource
import subprocess
import sys
import time
import zlib
from pathlib import Path

import ml_dtypes
import numpy as np

from experiments import cli
from experiments.tensor_files import StoredTensor, write_safetensors


def main(arguments: list[str]) -> dict:
    """What the import took, as it is printed."""
    options = cli.parser("studies.import_memory", __doc__)
    options.add_argument("--folder", type=Path, required=True, help="a new folder for both")
    options.add_argument("--gigabytes", type=float, default=1.0, help="size of the checkpoint")
    options.add_argument("--shards", type=cli.positive, default=4)
    args = options.parse_args(arguments)
    source = args.folder / "checkpoint"
    largest = write_checkpoint(source, int(args.gigabytes * 1e9), args.shards)
    command = ["experiments.import", str(source), "--workdir", str(args.folder / "run")]
    found = {"largest shard": largest} | measured([sys.executable, "-m", *command])
    for name, value in found.items():
        bytes_ = name not in ("seconds", "processor")
        print(f"{name}: {value / 1e6:,.0f} MB" if bytes_ else f"{name}: {value:,.1f} s")
    return found


def write_checkpoint(folder: Path, size: int, shards: int, width: int = 1024) -> int:
    """The bytes of the largest shard of a new checkpoint in LLaDA's layout, of about `size` bytes."""
    folder.mkdir(parents=True)
    hidden, rows = 3 * width, 16 * width
    ends, layer = 2 * rows * width + width, 4 * width**2 + 3 * width * hidden + 2 * width
    count = max(1, round((size / 2 - ends) / layer))
    tensors = {"model.transformer.wte.weight": _tensor("wte", rows, width)}
    for i in range(count):
        at = f"model.transformer.blocks.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            tensors[f"{at}.{name}.weight"] = _tensor(f"{i}.{name}", width, width)
        for name in ("ff_proj", "up_proj"):
            tensors[f"{at}.{name}.weight"] = _tensor(f"{i}.{name}", hidden, width)
        tensors[f"{at}.ff_out.weight"] = _tensor(f"{i}.ff_out", width, hidden)
        for name in ("attn_norm", "ff_norm"):
            tensors[f"{at}.{name}.weight"] = _tensor(f"{i}.{name}", width)
    tensors["model.transformer.ln_f.weight"] = _tensor("ln_f", width)
    tensors["model.transformer.ff_out.weight"] = _tensor("ff_out", rows, width)
    total, begin, parts = sum(t.nbytes for t in tensors.values()), 0, {}
    for name, tensor in tensors.items():
        number = begin * shards // total
        parts.setdefault(f"model-{number + 1:05d}-of-{shards:05d}.safetensors", {})[name] = tensor
        begin += tensor.nbytes
    for name, part in parts.items():
        write_safetensors(folder / name, part)
    weight_map = {tensor: name for name, part in parts.items() for tensor in part}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = {"model_type": "llada", "n_heads": width // 64, "mask_token_id": 126}
    (folder / "config.json").write_text(json.dumps(config))
    return max((folder / name).stat().st_size for name in parts)


def _tensor(name: str, *shape: int) -> StoredTensor:
    dtype = np.dtype(ml_dtypes.bfloat16)

    def make() -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return (0.02 * rng.standard_normal(shape, np.float32)).astype(dtype)

    return StoredTensor(shape, dtype, make)


def measured(command: list[str], every: float = 0.005) -> dict:
    """{"own", "resident"}: the greatest bytes of memory that a command took, its "seconds", and those of
    a processor; CalledProcessError where it fails."""
    start, before, own, resident = time.perf_counter(), _processor_seconds(), 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        sizes = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "RssAnon" in sizes:  # not of a process that has just ended
            own = max(own, int(sizes["RssAnon"].split()[0]) * 1024)
            resident = max(resident, int(sizes["VmHWM"].split()[0]) * 1024)
        time.sleep(every)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    seconds = {"seconds": time.perf_counter() - start, "processor": _processor_seconds() - before}
    return {"own": own, "resident": resident} | seconds


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    cli.run("studies.import_memory")
