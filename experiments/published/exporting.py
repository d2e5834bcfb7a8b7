"""A run as safetensors and a config.json: in the layout of a published family, or in our own.

Our own layout has an array of the run as a tensor of its path, "layers.attention.qkv.kernel", stacked
over layers, and the whole config of the run in its config.json.
"""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config import Experiment
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.overrides import resolve
from experiments.published.card import card_of
from experiments.published.families.own import OWN
from experiments.published.family import Architecture, Family, Options, Whole
from experiments.published.importing import REST
from experiments.published.making import check_absent, made_whole
from experiments.published.opening import FAMILIES, family_of_name
from experiments.published.parts import flat
from experiments.published.source import SourceRecord, read_source
from experiments.run import Run
from experiments.sampling.undrawn import never_drawn
from experiments.serialization import own_classes
from experiments.tensor_files import StoredTensor, read_tensors, write_safetensors
from experiments.training.digests import leaves

WEIGHTS = "model.safetensors"
_FREE = ("attention", "dtype", "remat", "scan", "dropout", "chunked_head")  # change no parameter


def export_run(
    run: Run, workdir: Path, folder: Path, family: str | None = None, options: Options | None = None
) -> str:
    """The name of the family whose layout the run now has in `folder`, which must not be there before.
    family: None takes that which the run was imported from, else one that its process and network are
    of, else our own. options: with the number of the mask or the start token in the file, where it has
    one. UserError where the network is not of the family; nothing is written then."""
    check_absent(folder, "--to")
    if own_classes(run.experiment):
        raise UserError("a run with classes of your own cannot be exported")
    source = read_source(workdir)
    given = Options(**source.options) if source else Options()
    if options is not None:
        given = replace(given, **{k: v for k, v in vars(options).items() if v is not None})
    if family is None and source is not None:
        family = source.family
    if family is None:
        written = _first(run, given)
    else:
        written = _written(run, family_of_name(family), given, source, workdir)
    with made_whole(folder) as made:
        write_safetensors(made / WEIGHTS, written.tensors, {"format": "pt"})
        write_atomically(made / "config.json", json.dumps(written.config, indent=1) + "\n")
        run.experiment.data.tokenizer.copy(made)
        write_atomically(made / "README.md", card_of(run, workdir, written.family.name, source))
    return written.family.name


@dataclass(frozen=True)
class Written:
    """What a run is in the layout of a family."""

    family: Family
    config: dict
    tensors: dict[str, StoredTensor]


def _first(run: Run, options: Options) -> Written:
    """The run in the layout of the first family that it is of; the last one, ours, has every run."""
    for family in FAMILIES:
        with suppress(UserError):
            return _written(run, family, options, None, Path())
    raise AssertionError("our own layout has every run")


def _written(
    run: Run, family: Family, options: Options, source: SourceRecord | None, workdir: Path
) -> Written:
    """The run in the layout of the family; UserError where it has no place there."""
    imported = source if source and source.family == family.name else None
    names: Mapping[str, str] = imported.keys if imported else {}
    dtypes: Mapping[str, str] = imported.dtypes if imported else {}
    rest = read_tensors(workdir / REST).tensors if imported else {}
    kept = {key: rest[name].read() for key, name in names.items() if name in rest}
    if family is OWN:
        network, repeated = Whole(run.experiment), ()
        config = OWN.config(run.experiment, run.experiment.model, options)
    else:
        network = run.experiment.model
        config, read = _read_again(run.experiment, family, options, imported)
        options, repeated = read.options, read.repeated
    found: dict[str, np.ndarray] = {}
    params = _leaves(run.params)
    for path, part in flat(family.layout(network, options)):
        array = np.asarray(params[path])
        if not part.keeps(array, kept):
            raise UserError(
                f"the layout of the family {family.name} cannot hold all of {'.'.join(path)}, "
                "such as a trained start token; use --family ddlm"
            )
        found |= part.save(array, kept)
    found |= {key: array for key, array in kept.items() if key not in found}
    found |= {key: found[of] for key, of in repeated if key in found}
    order = [key for key in names if key in found] + sorted(set(found) - set(names))
    tensors = {
        names.get(key, family.key_in_file(key)): _stored(found[key], dtypes.get(key, "float32"))
        for key in order
    }
    return Written(family, config, tensors)


def _read_again(
    experiment: Experiment, family: Family, options: Options, imported: SourceRecord | None
) -> tuple[dict, Architecture]:
    """(config.json, what the family makes of it and of the shapes of the run); UserError where that is
    another network, process, or set of tokens that are never drawn."""
    why = f"the network and process of this run are not those of the family {family.name}"
    if "block_size" in family.takes:
        options = replace(options, block_size=experiment.process.traits.attention_block)
    sizing = replace(options, mask=options.mask or 0, start=options.start or 0)
    try:
        config = imported.config if imported else {}
        config = config or family.config(experiment, experiment.model, options)
        parts = list(flat(family.layout(experiment.model, sizing)))
        forms = _leaves(jax.eval_shape(experiment.init_params, jax.random.key(0)))
        if {path for path, _ in parts} != set(forms):
            raise UserError(why)
        saved = [part.save(_empty(forms[path].shape), {}) for path, part in parts]
        shapes = {key: tensor.shape for tensors in saved for key, tensor in tensors.items()}
        read = family.read(shapes, config, options)
        made = replace(experiment, process=read.process, model=read.model, sampler=read.sampler)
        made = resolve(made, experiment.data.tokenizer)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{why}; leave --family out") from error
    never = never_drawn(made.sampler) - {read.options.mask} - never_drawn(experiment.sampler)
    if (
        _plain(made.model) != _plain(experiment.model)
        or made.process != experiment.process
        or never
    ):
        raise UserError(f"{why}; leave --family out")
    return config, read


def _plain(model) -> object:
    """A network without the settings that change none of its parameters, nor what they compute."""
    model = model.for_runtime()
    return replace(model, **{n: getattr(type(model), n) for n in _FREE if hasattr(model, n)})


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array of the shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def _leaves(tree: dict) -> dict[tuple[str, ...], Any]:
    return {tuple(path.split("/")): leaf for path, leaf in leaves(tree).items()}


def _stored(array: np.ndarray, dtype: str) -> StoredTensor:
    import ml_dtypes  # names bfloat16 for numpy

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return StoredTensor(array.shape, kind, lambda: np.asarray(array, dtype=kind, order="C"))
