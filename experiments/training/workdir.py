"""The directory of a run, which belongs to one config."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from experiments.config import Experiment
from experiments.devices.distributed import anywhere, is_first, wait_for_all
from experiments.errors import UserError
from experiments.files import check_here, why_unwritable, write_atomically
from experiments.locks import LOCK, held, is_held
from experiments.overrides import differences
from experiments.run import TOKENIZER
from experiments.serialization import classes, decode, encode, read_stored


@contextmanager
def one_writer(workdir: Path, log: Callable[[str], None] = lambda line: None) -> Iterator[None]:
    """Inside, no other run writes into `workdir`. Of several processes the first holds it for all.
    UserError, in all of them, where another run does, or where it cannot be written."""
    with ExitStack() as stack:
        failed = None
        if is_first():
            try:
                _check_directory(workdir)
                advice = "wait until it ends, or give another --workdir"
                stack.enter_context(held(workdir / LOCK, f"workdir {workdir}", advice, log))
            except UserError as error:
                failed = error
            except OSError as error:
                failed = unwritable(workdir, error)
        _fail_together(workdir, failed)
        yield


def _fail_together(workdir: Path, failed: UserError | None) -> None:
    """Nothing; an error in every process where one of them has failed."""
    if anywhere(failed is not None):
        raise failed or UserError(f"workdir {workdir}: the first process says why not")


def check_writable(workdir: Path) -> None:
    """Nothing; UserError, in all processes, where a training could not write into `workdir` now, as far
    as the first of them sees without making it."""
    failed = None
    if is_first():
        try:
            _check_writable(workdir)
        except UserError as error:
            failed = error
    _fail_together(workdir, failed)


def _check_writable(workdir: Path) -> None:
    _check_directory(workdir)
    if reason := why_unwritable(str(workdir / LOCK)):
        raise UserError(f"workdir {workdir} cannot be written ({reason}); give another --workdir")
    if is_held(workdir / LOCK):
        raise UserError(
            f"workdir {workdir} is in use by another process; wait until it ends, or give another "
            "--workdir"
        )


def unwritable(workdir: Path, error: OSError) -> UserError:
    """What to say where nothing can be written into a run's directory."""
    where = f"{Path(error.filename).name}: " if error.filename else ""
    return UserError(
        f"workdir {workdir} cannot be written ({where}{error.strerror or error}); check space and "
        "permissions, or give another --workdir"
    )


def _check_directory(workdir: Path) -> None:
    check_here(workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is a file; give a directory")


def check_workdir(workdir: Path, experiment: Experiment) -> None:
    """Nothing; UserError where `workdir` cannot hold a run of the (resolved) experiment."""
    try:
        str(workdir).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"workdir {workdir}: its name is not UTF-8, which checkpoints need; give another"
        ) from error
    path = workdir / "config.json"
    if path.exists():
        stored = read_stored(path)
        if stored != encode(experiment):
            changed = differences(
                decode(stored, str(path), Experiment, classes(experiment)), experiment
            )
            if changed:
                settings = [f"{path}: {values}" for path, values in changed.items()]
                raise UserError(
                    f"workdir {workdir} holds a run of another config ({'; '.join(settings[:4])}); "
                    "give another --workdir, or the settings of the run"
                )
    else:
        _check_directory(workdir)


def claim(workdir: Path, experiment: Experiment) -> None:
    """Writes config.json; UserError where `workdir` holds a run of another config."""
    check_workdir(workdir, experiment)
    if is_first():
        experiment.data.tokenizer.copy(workdir / TOKENIZER)
        text = json.dumps(encode(experiment), indent=1) + "\n"
        write_atomically(workdir / "config.json", text)
    wait_for_all("config.json is written")
    if not (workdir / "config.json").exists():
        raise UserError(
            f"workdir {workdir}: the files of the first process are missing; give a directory on "
            "a file system that all processes share"
        )
