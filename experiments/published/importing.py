"""A published checkpoint becomes an ordinary run: config, parameters, tokenizer, where it is from."""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import count
from pathlib import Path

import jax
import numpy as np

from experiments.config import Experiment
from experiments.data.subwords import Subwords
from experiments.data.text import Text
from experiments.data.tokenizers import Numbers, Tokenizer
from experiments.data.vocabularies import find_files
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.overrides import resolve
from experiments.published import SOURCE
from experiments.published.catalogue import release_of
from experiments.published.family import Options, some
from experiments.published.making import check_absent, made_whole
from experiments.published.opening import Checkpoint, open_checkpoint
from experiments.published.parts import Shape
from experiments.published.source import SourceRecord
from experiments.serialization import encode
from experiments.tensor_files import StoredTensor, write_safetensors
from experiments.training.checkpoints import Checkpoints
from experiments.training.workdir import claim

REST = "source.safetensors"  # of a run: what its files held that the network has no place for
Log = Callable[[str], None]


def import_run(
    source: Path,
    workdir: Path,
    family: str | None = None,
    tokenizer: str | None = None,
    mask_token: str | None = None,
    options: Options | None = None,
    name: str | None = None,
    revision: str | None = None,
    average: bool = True,
    log: Log = print,
) -> Experiment:
    """The experiment of the run that is now in `workdir`, which must not be there before.

    source: a folder or a file. tokenizer: its files; None looks for them in the folder. mask_token: a
    number, or a name of the tokenizer. name, revision: of a hub, to be noted. average: as of
    `open_checkpoint`. UserError where something is wrong; nothing is written then.
    """
    check_absent(workdir, "--workdir")
    options = options or Options()
    folder = source if source.is_dir() else source.parent
    files = _tokenizer_files(folder, tokenizer)
    if mask_token is not None:
        options = replace(options, mask=_number(mask_token, files))
    checkpoint = open_checkpoint(source, family, options, average)
    experiment = _experiment(checkpoint, files)
    _describe(checkpoint, experiment, log)
    with made_whole(workdir) as made:
        _write(checkpoint, experiment, made, _source(checkpoint, folder, name, revision))
    return experiment


def _tokenizer_files(folder: Path, given: str | None) -> str | None:
    """The path of the tokenizer: the one given, or that beside the checkpoint, of which a tokenizer.json
    tells more than the vocabulary beside it."""
    if given is not None:
        return given
    whole = folder / "tokenizer.json"
    if whole.is_file():
        return str(whole)
    return str(folder) if all(file.is_file() for file in find_files(folder)) else None


def _number(token: str, files: str | None) -> int:
    if re.fullmatch("[0-9]{1,9}", token):
        return int(token)
    if files is None:
        raise UserError(f"--mask-token {token!r} is a name; give a number, or --tokenizer with it")
    return Subwords(files).read().number(token)


def _experiment(checkpoint: Checkpoint, files: str | None) -> Experiment:
    architecture = checkpoint.architecture
    size = architecture.model.vocab_size
    assert size is not None  # the tensors tell
    if architecture.experiment is not None:
        return _own(architecture.experiment, architecture.length, files)
    tokenizer: Tokenizer = Numbers(size) if files is None else Subwords(files, vocab_size=size)
    labels = tuple(str(n) for n in range(architecture.model.num_labels or 0))
    try:
        data = Text(tokenizer=tokenizer.read(), length=architecture.length, label_names=labels)
    except ValueError as error:
        raise UserError(f"{error}; give --length") from error
    try:
        experiment = Experiment(
            process=architecture.process,
            model=architecture.model,
            data=data,
            sampler=architecture.sampler,
        )
    except ValueError as error:  # an option that does not go with the network
        raise UserError(str(error)) from error
    return resolve(experiment, data.tokenizer)


def _own(experiment: Experiment, length: int, files: str | None) -> Experiment:
    """An experiment of our own layout, reading its tokenizer from the files, where it has some."""
    tokenizer = experiment.data.tokenizer
    if tokenizer.sha256:
        if files is None:
            raise UserError("the tokenizer is missing beside the checkpoint; give --tokenizer")
        tokenizer = tokenizer.moved(Path(files)).read()
    data = replace(experiment.data, tokenizer=tokenizer, length=length)
    return replace(experiment, data=data)


def _describe(checkpoint: Checkpoint, experiment: Experiment, log: Log) -> None:
    forms = jax.eval_shape(experiment.init_params, jax.random.key(0))
    size = sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(forms))
    log(
        f"{checkpoint.family.name}: {size:,} parameters, {experiment.model.vocab_size:,} tokens, length "
        f"{experiment.data.length}"
    )
    for note in checkpoint.architecture.notes:
        log(f"note: {note}")
    if not checkpoint.fits:
        log(
            "warning: its tensors and config.json do not look like the family "
            f"{checkpoint.family.name} given with --family"
        )
    if checkpoint.averaged:
        log("note: using the file's average (EMA) of the parameters")
    if checkpoint.unknown:
        log(
            "warning: ignored tensors that are unknown in this family: "
            f"{some(list(checkpoint.unknown))}"
        )
    if checkpoint.architecture.experiment is None and not experiment.data.tokenizer.sha256:
        log("note: no tokenizer (--tokenizer), so texts are token numbers")


def _write(
    checkpoint: Checkpoint,
    experiment: Experiment,
    workdir: Path,
    source: SourceRecord,
) -> None:
    claim(workdir, experiment)
    with _arrays_on_disk(workdir / "arrays") as room:
        params = _complete(experiment, checkpoint.params(room))
        with Checkpoints(workdir / "checkpoints") as checkpoints:
            checkpoints.save(0, {"ema": params}, {"config": encode(experiment)})
    rest = {
        name: StoredTensor(array.shape, array.dtype, lambda array=array: array)
        for name, array in checkpoint.rest().items()
    }
    write_safetensors(workdir / REST, rest)
    write_atomically(workdir / SOURCE, json.dumps(asdict(source), indent=1) + "\n")


@contextmanager
def _arrays_on_disk(folder: Path) -> Iterator[Callable[[Shape], np.ndarray]]:
    """What makes float32 arrays of a shape whose numbers are in files of the folder, mapped: a model is
    not in memory at once. The folder is gone at the end. OSError where there is no room for an array."""
    folder.mkdir()
    names = count()

    def room(shape: Shape) -> np.ndarray:
        # A page of a mapped file that finds no room on the disk would end the process.
        if shutil.disk_usage(folder).free < 4 * math.prod(shape):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return np.asarray(np.memmap(folder / str(next(names)), np.float32, "w+", shape=shape))

    try:
        yield room
    finally:
        shutil.rmtree(folder)


def _complete(experiment: Experiment, params: dict) -> dict:
    """The parameters, with those that the files lack as `init` draws them."""

    def filled(given: dict, drawn: dict) -> dict:
        return {
            name: filled(given.get(name, {}), value)
            if isinstance(value, dict)
            else given.get(name, value)
            for name, value in drawn.items()
        }

    forms = jax.eval_shape(experiment.init_params, jax.random.key(0))
    if jax.tree.structure(forms) == jax.tree.structure(params):
        return params
    return filled(params, experiment.init_params(jax.random.key(0)))


def _source(
    checkpoint: Checkpoint, folder: Path, name: str | None, revision: str | None
) -> SourceRecord:
    release = release_of(checkpoint.family.name)
    return SourceRecord(
        family=checkpoint.family.name,
        files=checkpoint.sha256,
        name=name,
        revision=revision,
        licence=_licence(folder),
        averaged=checkpoint.averaged,
        notes=list(checkpoint.architecture.notes),
        unknown=list(checkpoint.unknown),
        published=release and {"number": release.number, "differs": release.differs},
        options=asdict(checkpoint.architecture.options),
        config=checkpoint.config,
        keys=checkpoint.names,
        dtypes={key: str(tensor.dtype) for key, tensor in checkpoint.tensors.items()},
    )


def _licence(folder: Path) -> str | None:
    """What the card in the folder says of its licence, as it says it; None where it says nothing."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    with open(card, "rb") as file:
        head = file.read(100_000).decode("utf-8", "replace")
    matter = re.match(r"---\s*\n(.*?)\n---", head, re.DOTALL)
    said = re.search(r"^license:\s*(\S.*?)\s*$", matter[1], re.MULTILINE) if matter else None
    return said[1][:200] if said else None
