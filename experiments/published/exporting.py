"""A run as safetensors and a config.json: in the layout of a published family, or in our own.

Our own layout has an array of the run as a tensor of its path, "layers.attention.qkv.kernel", stacked
over layers, and the whole config of the run in its config.json.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.config import Experiment
from experiments.errors import UserError
from experiments.files import write_atomically
from experiments.published.card import card_of
from experiments.published.families.own import OWN
from experiments.published.family import Family, Options, Whole
from experiments.published.importing import REST
from experiments.published.making import check_absent, made_whole
from experiments.published.opening import FAMILIES, family_of_name
from experiments.published.parts import flat
from experiments.published.source import SourceRecord, read_source
from experiments.run import Run
from experiments.serialization import own_classes
from experiments.tensor_files import StoredTensor, read_tensors, write_safetensors
from experiments.training.digests import leaves

WEIGHTS = "model.safetensors"
Repeated = tuple[tuple[str, str], ...]
_FREE = ("attention", "dtype", "remat", "scan", "dropout", "chunked_head")  # change no parameter


def export_run(
    run: Run, workdir: Path, folder: Path, family: str | None = None, options: Options | None = None
) -> str:
    """The name of the family whose layout the run now has in `folder`, which must not be there before.
    family: None takes that which the run was imported from, else one that its process and network are
    of, else our own. options: with the number of the mask or the start token in the file, where it has
    one. UserError where the network is not of the family; nothing is written then."""
    check_absent(folder, "--to")
    source = read_source(workdir)
    given = Options(**source.options) if source else Options()
    if options is not None:
        given = replace(given, **{k: v for k, v in vars(options).items() if v is not None})
    chosen, config, repeated = _choose(run.experiment, family, source, given)
    tensors = _tensors(run, chosen, given, source, workdir, repeated)
    with made_whole(folder) as made:
        write_safetensors(made / WEIGHTS, tensors, {"format": "pt"})
        write_atomically(made / "config.json", json.dumps(config, indent=1) + "\n")
        run.experiment.data.tokenizer.copy(made)
        write_atomically(made / "README.md", card_of(run, workdir, chosen.name, source))
    return chosen.name


def _choose(
    experiment: Experiment, name: str | None, source: SourceRecord | None, options: Options
) -> tuple[Family, dict, Repeated]:
    """(the family, its config.json of the run, and what its files have a second time)."""
    if name is None and source is not None:
        name = source.family
    if name is not None:
        family = family_of_name(name)
        config = source.config if source and source.family == name else None
        return family, *_config(experiment, family, options, config)
    for family in FAMILIES:
        try:
            return family, *_config(experiment, family, options, None)
        except UserError:
            continue
    raise AssertionError("our own layout is the last of the families, and has every run")


def _config(
    experiment: Experiment, family: Family, options: Options, config: dict | None
) -> tuple[dict, Repeated]:
    """The config.json by which the family reads the run's network, and what it then finds repeated;
    UserError where it is another network."""
    why = f"the network and process of this run are not those of the family {family.name}"
    if own_classes(experiment):
        raise UserError("a run with classes of your own cannot be exported")
    if family is OWN:
        return OWN.config(experiment, experiment.model, options), ()
    try:
        layout = family.layout(experiment.model, options)
        config = config or family.config(experiment, experiment.model, options)
        forms = _leaves(jax.eval_shape(experiment.init_params, jax.random.key(0)))
        if {path for path, _ in flat(layout)} != set(forms):
            raise UserError(why)
        saved = [part.save(_empty(forms[path].shape), {}) for path, part in flat(layout)]
        shapes = {key: tensor.shape for tensors in saved for key, tensor in tensors.items()}
        read = family.read(shapes, config, options)
        same = _plain(read.model) == _plain(experiment.model)
        if not same or type(read.process) is not type(experiment.process):
            raise UserError(why)
    except (AttributeError, TypeError, ValueError, KeyError, IndexError) as error:
        raise UserError(f"{why}; leave --family out") from error
    return config, read.repeated


def _plain(model) -> object:
    """A network without the settings that change none of its parameters, nor what they compute."""
    model = model.for_runtime()
    return replace(model, **{n: getattr(type(model), n) for n in _FREE if hasattr(model, n)})


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array of the shape that takes no memory."""
    return np.broadcast_to(np.float32(0), shape)


def _leaves(tree: dict) -> dict[tuple[str, ...], Any]:
    return {tuple(path.split("/")): leaf for path, leaf in leaves(tree).items()}


def _tensors(
    run: Run,
    family: Family,
    options: Options,
    source: SourceRecord | None,
    workdir: Path,
    repeated: Repeated,
) -> dict[str, StoredTensor]:
    """The tensors by the names that the family's files have, as they were where they were imported."""
    imported = source is not None and source.family == family.name
    names: Mapping[str, str] = source.keys if source and imported else {}
    dtypes: Mapping[str, str] = source.dtypes if source and imported else {}
    rest = read_tensors(workdir / REST).tensors if imported else {}
    kept = {key: rest[name].read() for key, name in names.items() if name in rest}
    found: dict[str, np.ndarray] = {}
    params = _leaves(run.params)
    network = Whole(run.experiment) if family is OWN else run.experiment.model
    for path, part in flat(family.layout(network, options)):
        found |= part.save(np.asarray(params[path]), kept)
    found |= {key: array for key, array in kept.items() if key not in found}
    found |= {key: found[of] for key, of in repeated if key in found}
    order = [key for key in names if key in found] + sorted(set(found) - set(names))
    return {
        names.get(key, family.written(key)): _stored(found[key], dtypes.get(key, "float32"))
        for key in order
    }


def _stored(array: np.ndarray, dtype: str) -> StoredTensor:
    import ml_dtypes  # names bfloat16 for numpy

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return StoredTensor(array.shape, kind, lambda: np.ascontiguousarray(array, dtype=kind))
