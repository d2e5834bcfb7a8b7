"""The directory of a run, which belongs to one config."""

import json
from pathlib import Path

from experiments.config import Experiment
from experiments.data.subwords import Subwords
from experiments.devices.distributed import is_first, wait_for_all
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.runs import TOKENIZER
from experiments.settings import differences
from experiments.stored import decode, encode, read_stored


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
            changed = differences(decode(stored, str(path), Experiment), experiment)
            if changed:
                raise UserError(
                    f"workdir {workdir} holds a run of another config ({'; '.join(changed[:4])}); "
                    "give another --workdir, or the settings of the run"
                )
    elif workdir.exists() and not workdir.is_dir():
        raise UserError(f"workdir {workdir} is a file; give a directory")


def claim(workdir: Path, experiment: Experiment) -> None:
    """Writes config.json; UserError where `workdir` holds a run of another config."""
    check_workdir(workdir, experiment)
    if is_first():
        if isinstance(experiment.data.tokenizer, Subwords):
            experiment.data.tokenizer.copy(workdir / TOKENIZER)
        text = json.dumps(encode(experiment), indent=1) + "\n"
        write_atomically(workdir / "config.json", text)
    wait_for_all("config.json is written")
    if not (workdir / "config.json").exists():
        raise UserError(
            f"workdir {workdir}: what the first process wrote is not there; give a directory on a file "
            "system that all processes share"
        )
