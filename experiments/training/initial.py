"""What a run begins with from other runs: parameters that fit, or a frozen base and its energy."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import jax

from diffusion.process import Composed, Sequential, has_noisy_text
from experiments.config import Experiment
from experiments.data.remote import local_copy
from experiments.errors import UserError
from experiments.files import is_url
from experiments.program_cache import cache_folder
from experiments.run import Run, load_run, merged, with_own_tokenizer
from experiments.serialization import decode, read_stored


def load_initial(
    experiment: Experiment, workdir: Path | None, log: Callable[[str], None]
) -> tuple[Experiment, dict | None]:
    """(the experiment with what its base fills in, parameters to begin with or None).

    Says what was loaded, what is fresh, and what did not fit. A run that `workdir` holds already needs
    the other runs no more. UserError where a run is missing or of the wrong kind.
    """
    second, process = experiment.energy, experiment.process
    if second is None and not experiment.init_from:
        return experiment, None
    stored = _stored(workdir)
    if stored is not None and stored.init_from == experiment.init_from:
        return experiment if second is None else _with_base(experiment, stored, stored.energy), None
    name = type(process).__name__
    if not experiment.init_from:
        hint = f", as this run's is {stored.init_from}" if stored and stored.init_from else ""
        raise UserError(f"{name} needs a trained base; give its run with --set init_from=RUN{hint}")
    base = _load(experiment, "init_from", experiment.init_from)
    if second is None:
        params = base.params
        masked = has_noisy_text(process) or process.traits.inserts
        if isinstance(base.experiment.process, Sequential) and masked:
            params = base.experiment.model.with_mean_mask(params)
            log(f"the mask replaces the start token of {experiment.init_from}")
        return experiment, _fitting(experiment, params, experiment.init_from, log)
    assert isinstance(process, Composed)  # what has an energy is over the process that it corrects
    kind = type(process.base)
    if type(base.experiment.process) is not kind:
        base_name = type(base.experiment.process).__name__
        raise UserError(
            f"init_from {experiment.init_from} holds process {base_name}, but the base of {name} "
            f"is {kind.__name__}"
        )
    source = base
    if second.output == "tokens":
        if not experiment.energy_from:
            raise UserError(
                f"the energy of {name} is a trained autoregressive model; give its run with "
                "--set energy_from=RUN"
            )
        source = _load(experiment, "energy_from", experiment.energy_from)
        if not isinstance(source.experiment.process, Sequential):
            energy_name = type(source.experiment.process).__name__
            raise UserError(
                f"energy_from {experiment.energy_from} holds process {energy_name}, but the "
                f"energy of {name} is Autoregressive"
            )
        energy = source.experiment.model
    else:
        energy = replace(second, backbone=base.experiment.model)
    experiment = _with_base(experiment, base.experiment, energy)
    sources = dict.fromkeys((experiment.init_from, experiment.energy_from or experiment.init_from))
    params = base.params | {"energy": source.params}
    return experiment, _fitting(experiment, params, " and ".join(sources), log)


def with_model_of_run(experiment: Experiment, workdir: Path | None) -> Experiment:
    """The experiment with the network and tokenizer of the run that it begins with, where `init_model`
    says so: what `Backbone.like` takes of the network. A run that `workdir` holds already tells them
    itself. UserError where there is no such run, or its network is of another kind."""
    if experiment.init_model == "config":
        return experiment
    source = _stored(workdir)
    if source is None:
        if not experiment.init_from:
            raise UserError(
                "init_model = run takes the network from the run of init_from; give its directory with "
                "--set init_from=RUN"
            )
        source = _stored(place_of("init_from", experiment.init_from))
    if source is None:
        raise UserError(
            f"init_from {experiment.init_from} has no checkpoint; give the directory of a trained "
            "run"
        )
    try:
        model = experiment.model.like(source.model.inner)
        data = replace(experiment.data, tokenizer=source.data.tokenizer)
        return replace(experiment, model=model, data=data)
    except ValueError as error:
        raise UserError(f"init_from {experiment.init_from}: {error}") from error


def _with_base(experiment: Experiment, base: Experiment, energy) -> Experiment:
    """The experiment on the base of another: its process, or the base of that, and its model."""
    process = base.process.base if isinstance(base.process, Composed) else base.process
    process = replace(experiment.process, base=process)
    return replace(experiment, model=base.model, process=process, energy=energy)


def _stored(workdir: Path | None) -> Experiment | None:
    """The experiment of the run in `workdir`, without its parameters; None where there is no run."""
    if workdir is None:
        return None
    path = workdir / "config.json"
    if not (path.is_file() and any(workdir.glob("checkpoints/*"))):
        return None
    return with_own_tokenizer(decode(read_stored(path), str(path), Experiment), workdir)


def place_of(setting: str, workdir: str) -> Path:
    """The directory of a run, of a URL that of a copy; UserError where there is none."""
    place = local_copy(workdir, cache_folder(), setting) if is_url(workdir) else Path(workdir)
    if not place.is_dir():
        raise UserError(f"{setting} {workdir} does not exist; give a run directory")
    return place


def _load(experiment: Experiment, setting: str, workdir: str) -> Run:
    place = place_of(setting, workdir)
    run = merged(load_run(str(place)))
    if run.experiment.data.tokenizer != experiment.data.tokenizer:
        raise UserError(f"{setting} {workdir} was trained on another alphabet")
    return run


def _fitting(experiment: Experiment, params: dict, source: str, log: Callable[[str], None]) -> dict:
    """The part of `params` that has the experiment's names and shapes; the rest is logged."""
    params = experiment.model.place(params)
    shapes = jax.eval_shape(lambda: experiment.init_params(jax.random.key(0)))
    loaded, other = [], {"fresh": [], "of another shape": [], "not used": []}

    def fit(shapes, params, path):
        other["not used"] += [path + name for name in params if name not in shapes]
        fitting = {}
        for name, part in shapes.items():
            place, value = path + name, params.get(name)
            if isinstance(part, dict):
                fitting[name] = fit(part, value if isinstance(value, dict) else {}, f"{place}/")
            elif value is None:
                other["fresh"].append(place)
            elif value.shape != part.shape:
                other["of another shape"].append(f"{place} {value.shape}, not {part.shape}")
            else:
                loaded.append(place)
                fitting[name] = value
        return fitting

    fitting = fit(shapes, params, "")
    if not loaded:
        raise UserError(f"nothing in {source} fits this model")
    log(f"arrays loaded from {source} ({len(loaded)}): {', '.join(loaded)}")
    for kind, names in other.items():
        if names:
            log(f"{kind} ({len(names)}): {', '.join(names)}")
    return fitting
