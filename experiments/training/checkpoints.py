"""Checkpoints: asynchronous saves with a digest of every array, and strict, checked loading.

A directory holds one folder per step, named by the number alone. Orbax writes a step under a
temporary name and renames it when complete, its record included: a killed run leaves no half step, and
a folder without a record is damaged. Orbax does not notice a flipped byte, so a digest of every array
is stored beside the arrays and compared at each load. What is found damaged is never deleted nor
written over: `quarantine` gives it another name, under which it is no step.
Reading (`steps`, `latest`, `best`, `meta`, `restore`, `restore_partial`) writes nothing; one run at
a time may save into a directory. It must be on a file system with atomic renames, local or shared.

Loading executes nothing from the files: they are JSON and raw array chunks (zarr within OCDBT, read
by tensorstore), and the handler names in the metadata only choose among those already registered.

Several processes: all write their parts, and the first alone renames and deletes. The digest is a
collective over whatever mesh the arrays have, and orbax places the barriers of a save.
"""

import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint.experimental.v1 as ocp
from jax.sharding import SingleDeviceSharding

from experiments.devices.distributed import anywhere
from experiments.errors import UserError, shortened
from experiments.training.checkpoint_record import (
    RECORD,
    make_record,
    read_record,
    record_hash,
    rewrite_record,
    sealed,
)
from experiments.training.digests import digest, leaves
from experiments.training.orbax_noise import quiet, unread

TEMPORARY = ".orbax-checkpoint-tmp"
DELETED = ".deleted"
SET_ASIDE = ".damaged"
_FOREVER = 100 * 365 * 86400  # seconds
_CHUNK = 2**25  # bytes of an array that are compressed at a time


class CorruptCheckpoint(UserError):
    """A checkpoint of which something is missing or changed; `what`, without its path."""

    def __init__(self, message: str, what: str):
        super().__init__(message)
        self.what = what


def _line(error):
    return shortened(f"{type(error).__name__}: {error}")


def _some(names):
    """At most four of the names, and how many more there are."""
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


class Checkpoints:
    """The checkpoints in one directory; as a context manager it waits for the last save."""

    def __init__(self, directory: str | Path, keep_last: int = 2, keep_best: int = 1):
        if keep_last < 1 or keep_best < 0:
            raise UserError(
                f"checkpoints: keep_last={keep_last}, keep_best={keep_best}: "
                "keep at least 1 last and 0 best"
            )
        self.directory = Path(directory).absolute()
        self.keep_last, self.keep_best = keep_last, keep_best
        self._pending = None  # (step, orbax's response) of the save being written

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        try:
            self.close()
        except UserError as failed:
            if error is None:
                raise
            error.add_note(str(failed))  # the first error is the one to show

    def save(self, step: int, state: dict, meta: dict, metric: float | None = None) -> None:
        """Nothing; starts to write the state, and returns when its arrays may be donated.

        state is a dict, possibly nested, of jax arrays, or of numpy's, which must stay as they are until
        `wait`, and may be larger than memory where they are mapped; meta is a dict of JSON values. A
        lower metric is better, and None or a value not finite never counts as best. A step that is there
        is left as it is. Raises UserError for meta that is not JSON, for a step that is there and has
        a damaged record, and for a failure of this save or the one before; the steps written earlier
        stay, and a later save may be tried.
        """
        self.wait()
        if step in self.steps():
            self._record(step)
            return
        try:
            record = make_record(state, meta, metric)
        except ValueError as error:
            raise UserError(f"checkpoint {step}: {error}") from error
        context = ocp.Context()
        # Orbax measures by the clock on the wall, which may be set while it waits.
        context.asynchronous.timeout_secs = _FOREVER
        context.asynchronous.create_directories_asynchronously = False
        context.memory.deepcopy_host_arrays = False
        context.array.saving.storage_options.chunk_byte_size = _CHUNK
        with self._failing(step), quiet(), context:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            response = ocp.save_checkpointables_async(
                str(self.directory / str(step)),
                {"state": state},
                custom_metadata=sealed(record),
            )
        self._pending = step, response

    def wait(self) -> None:
        """Nothing, once the last save is complete; raises UserError if it failed."""
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        with self._failing(step), quiet():
            response.result()
            self._sweep()

    def close(self) -> None:
        """Nothing, once the last save is complete; raises UserError if it failed."""
        self.wait()

    def steps(self) -> list[int]:
        """The steps in rising order, damaged or not; empty if the directory does not exist."""
        try:
            names = [path.name for path in self.directory.glob("*/")]
        except OSError as error:
            raise UserError(f"checkpoints {self.directory}: {_line(error)}") from error
        return sorted(int(name) for name in names if name.isdecimal())

    def latest(self) -> int | None:
        """The newest step, damaged or not, or None."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the lowest metric, the later of equals, or None if none has a metric."""
        return next(iter(self._ranked()), None)

    def meta(self, step: int) -> dict:
        """The meta given to save; raises UserError for a step that is missing or damaged."""
        return self._record(step)["meta"]

    def fingerprint(self, step: int) -> str:
        """16 hexadecimal digits of a hash over the meta and the digest of every array."""
        return record_hash(self._record(step))[:16]

    def digests(self, step: int) -> dict[str, str]:
        """The digest of each array as it was saved, by its path."""
        return {name: bits for name, (_, _, bits) in self._record(step)["arrays"].items()}

    def restore(self, step: int, like: Any) -> Any:
        """The state of a step, bit for bit as saved.

        like is a tree of jax.ShapeDtypeStruct as the result shall be; its shardings may be of
        another mesh than at the save. Raises UserError if a path, shape or dtype differs, or if
        anything read is damaged or missing.
        """
        return self._load(step, like, self._record(step)["arrays"], partial=False)

    def restore_partial(self, step: int, key: str, like: Any) -> Any:
        """One top-level entry of the state, such as "ema", reading only that; else as restore."""
        arrays = self._record(step)["arrays"]
        arrays = {n: a for n, a in arrays.items() if n == key or n.startswith(f"{key}/")}
        return self._load(step, {key: like}, arrays, partial=True)[key]

    def has(self, step: int, key: str) -> bool:
        """Whether the state of a step has the top-level entry `key`."""
        return any(name.split("/")[0] == key for name in self._record(step)["arrays"])

    def intact(self, key: str) -> list[int]:
        """The steps of which the record and the entry `key`, a dict, are as they were saved."""
        good = []
        for step in self.steps():
            like = {}
            try:
                for name, (dtype, shape, _) in self._record(step)["arrays"].items():
                    *parents, last = name.split("/")
                    if parents and parents[0] == key:
                        where = like
                        for parent in parents[1:]:
                            where = where.setdefault(parent, {})
                        where[last] = jax.ShapeDtypeStruct(shape, dtype)
                self.restore_partial(step, key, like)
                good.append(step)
            except CorruptCheckpoint:
                continue
        return good

    def quarantine(self, step: int) -> Path:
        """The new path of a step that is damaged, under which it is kept and never counted."""
        path = self.directory / str(step)
        count, aside = 1, path.with_name(f"{step}{SET_ASIDE}")
        while aside.exists():
            count += 1
            aside = path.with_name(f"{step}{SET_ASIDE}.{count}")
        if jax.process_index() == 0:
            with self._failing(step):
                path.rename(aside)
        return aside

    def complete(self, step: int, meta: dict, metric: float | None) -> None:
        """Nothing; the record of a saved step has this meta and metric from now on."""
        record = self._record(step) | {"meta": meta, "metric": metric}
        if jax.process_index() == 0:
            rewrite_record(self.directory / str(step), record)

    def _load(self, step, like, arrays, partial):
        local = SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding or local), like
        )
        wanted = {name: [str(x.dtype), list(x.shape)] for name, x in leaves(like).items()}
        saved = {name: [dtype, shape] for name, (dtype, shape, _) in arrays.items()}
        if wanted != saved:
            raise self._mismatch(step, wanted, saved)
        context = ocp.Context()
        context.pytree.loading.partial_load = partial
        path = self.directory / str(step)
        alone = jax.process_index()
        context.multiprocessing.primary_host = alone
        context.multiprocessing.active_processes = {alone}
        context.multiprocessing.barrier_sync_key_prefix = f"process{alone}"
        failed = None
        try:
            with quiet(), context:
                state = ocp.load_checkpointables(str(path), {"state": like})["state"]
        except (ValueError, KeyError, OSError, TypeError) as error:
            failed = error
        # What one process cannot read of its part, none takes.
        if anywhere(failed is not None):
            what = unread(failed, path) if failed else "another process cannot read its part"
            raise self._damaged(step, what) from failed
        digests = digest(state)
        bad = [name for name, (_, _, bits) in arrays.items() if digests.get(name) != bits]
        if bad:
            raise self._damaged(step, f"the bits changed of {_some(bad)}")
        return state

    def _record(self, step):
        """What save stored beside the arrays."""
        path = self.directory / str(step)
        try:
            return read_record(path)
        except FileNotFoundError as error:
            if path.exists():
                raise self._damaged(step, f"{RECORD} is gone") from error
            raise UserError(f"checkpoint {path}: not there; {self._others(step)}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._damaged(step, f"{RECORD}: {_line(error)}") from error

    def _ranked(self):
        """The steps that have a metric, the best first."""
        metrics = {}
        for step in self.steps():
            with suppress(CorruptCheckpoint):
                metrics[step] = self._record(step)["metric"]
        return sorted(
            (s for s in metrics if metrics[s] is not None), key=lambda s: (metrics[s], -s)
        )

    def _sweep(self):
        """Nothing; deletes what is left of broken saves and the steps that need not be kept. Steps with
        a damaged record are set aside: they are not among those kept."""
        if jax.process_index() != 0:
            return
        for step in self.steps():
            try:
                self._record(step)
            except CorruptCheckpoint:
                self.quarantine(step)
        keep = self.steps()[-self.keep_last :] + self._ranked()[: self.keep_best]
        for step in set(self.steps()) - set(keep):
            path = self.directory / str(step)
            # A deletion cut short must not leave a step with half its files.
            path.rename(path.with_name(path.name + DELETED))
        for suffix in (TEMPORARY, DELETED):
            for path in self.directory.glob(f"*{suffix}"):
                shutil.rmtree(path)

    @contextmanager
    def _failing(self, step):
        try:
            yield
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(
                f"checkpoint {self.directory / str(step)}: could not be saved ({_line(error)}); "
                "check space and permissions, earlier steps are intact"
            ) from error

    def _others(self, step):
        others = ", ".join(str(s) for s in self.steps() if s != step)
        return f"other steps: {others or 'none'}"

    def _damaged(self, step, what):
        path = self.directory / str(step)
        return CorruptCheckpoint(
            f"checkpoint {path} is damaged: {what}; {self._others(step)}", what
        )

    def _mismatch(self, step, wanted, saved):
        both = [n for n in wanted if n in saved and wanted[n] != saved[n]]
        parts = {
            "only in the checkpoint": [n for n in saved if n not in wanted],
            "only in the model": [n for n in wanted if n not in saved],
            "differ": [f"{n} is {saved[n]}, wanted {wanted[n]}" for n in both],
        }
        what = "; ".join(f"{kind}: {_some(names)}" for kind, names in parts.items() if names)
        return UserError(
            f"checkpoint {self.directory / str(step)} does not fit the model: {what}; "
            "use the config stored with it"
        )
