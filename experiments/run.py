"""A trained model for reading: its config and its averaged parameters, from a checkpoint alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax

from experiments.config import Experiment, Mesh
from experiments.devices.sharding import make_mesh, tree_shardings
from experiments.errors import UserError
from experiments.files import check_here
from experiments.overrides import load
from experiments.sampling.undrawn import changed
from experiments.serialization import classes, decode
from experiments.training.checkpoints import Checkpoints, CorruptCheckpoint

TOKENIZER = "tokenizer"  # the folder of a run's own copy of a vocabulary from a file


@dataclass(frozen=True)
class Run:
    experiment: Experiment
    params: dict
    step: int
    fingerprint: str
    mesh: jax.sharding.Mesh


def load_run(
    workdir: str,
    step: int | None = None,
    overrides: Sequence[str] = (),
    config: str | Experiment | None = None,
    ema: bool = True,
) -> Run:
    """The run in `workdir` at `step` (default: the newest), on the devices of this machine.

    Placement and kernels (mesh, model.attention) are this machine's, not those it was trained with.
    config: the file that defines the user's own classes, or an experiment of them; their settings are
    those of the run.
    """
    check_here(workdir)
    checkpoints, asked = Checkpoints(Path(workdir) / "checkpoints"), step
    while True:
        step = checkpoints.latest() if asked is None else asked
        if step is None:
            what = "holds no checkpoint" if Path(workdir).is_dir() else "does not exist"
            raise UserError(
                f"workdir {workdir} {what}; train first: ddlm train --config CONFIG --workdir {workdir} "
                "(or ddlm import, of a published checkpoint)"
            )
        try:
            return _load(workdir, checkpoints, step, overrides, config, ema)
        except UserError:
            if step in checkpoints.steps():
                raise
            if asked is not None:
                checkpoints.meta(step)  # which says that it is not there
            # A training has deleted it meanwhile, and there are newer ones.


def _load(
    workdir: str,
    checkpoints: Checkpoints,
    step: int,
    overrides: Sequence[str],
    config: str | Experiment | None,
    ema: bool,
) -> Run:
    with _naming_good_steps(checkpoints, step):
        meta = checkpoints.meta(step)
    plain, where = meta.get("config"), f"checkpoint {step}"
    config = load(config) if isinstance(config, str) else config
    own = classes(config) if config else {}
    stored = decode(plain, where, Experiment, own)
    experiment = replace(stored, mesh=Mesh(), model=stored.model.for_runtime())
    experiment = with_own_tokenizer(experiment, Path(workdir))
    return restore_run(workdir, step, changed(experiment, overrides), ema)


def merged(run: Run) -> Run:
    """The run as one of the network that is called, `Backbone.inner`."""
    model = run.experiment.model
    others = {k: run.params[k] for k in ("process", "energy") if k in run.params}
    experiment = replace(run.experiment, model=model.inner)
    return replace(run, experiment=experiment, params=model.merge(run.params) | others)


def with_own_tokenizer(experiment: Experiment, workdir: Path) -> Experiment:
    """The experiment of the run in `workdir` with its tokenizer read from there, if it has a copy."""
    vocabulary = workdir / TOKENIZER
    if not vocabulary.is_dir():
        return experiment
    tokenizer = experiment.data.tokenizer.moved(vocabulary)
    return replace(experiment, data=replace(experiment.data, tokenizer=tokenizer))


def restore_run(workdir: str | Path, step: int, experiment: Experiment, ema: bool = True) -> Run:
    """The run of the (resolved) `experiment` in `workdir` at `step`, on the devices of its mesh."""
    checkpoints = Checkpoints(Path(workdir) / "checkpoints")
    mesh = make_mesh(experiment.mesh)
    abstract = jax.eval_shape(lambda: experiment.init_params(jax.random.key(0)))
    like = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        abstract,
        tree_shardings(mesh, abstract, experiment.roles()),
    )
    with _naming_good_steps(checkpoints, step):
        params = checkpoints.restore_partial(step, "ema" if ema else "params", like)
        return Run(experiment, params, step, checkpoints.fingerprint(step), mesh)


@contextmanager
def _naming_good_steps(checkpoints: Checkpoints, step: int) -> Iterator[None]:
    """Damage becomes a UserError that names the steps whose parameters were read and found good, or says
    what helps where there is none."""
    try:
        yield
    except CorruptCheckpoint as error:
        advice = "no step is good; restore one from a copy, or train again in another --workdir"
        if good := checkpoints.intact("ema"):
            advice = (
                f"good steps: {', '.join(map(str, good))}; choose one with --step, or continue the "
                "training, which sets the damaged one aside"
            )
        raise UserError(
            f"checkpoint {checkpoints.directory / str(step)} is damaged: {error.what}; {advice}"
        ) from error
