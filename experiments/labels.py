"""Labels by their names, and whether a network takes them."""

from dataclasses import replace

from experiments.config import Experiment
from experiments.errors import UserError


def fill_labels(experiment: Experiment, names: tuple[str, ...]) -> Experiment:
    """The experiment with the names of its data's labels (); () are those it has: its model's
    num_labels is their number. UserError where the model was made for another."""
    names = names or experiment.data.label_names
    if not (experiment.data.labels and names):
        return experiment
    model = experiment.model
    if model.num_labels not in (None, len(names)):
        raise UserError(
            f"model.num_labels = {model.num_labels}, but the data has {len(names)} labels; leave "
            "it out to use the data's"
        )
    if model.num_labels is None:
        model = replace(model, num_labels=len(names))
    return replace(experiment, data=replace(experiment.data, label_names=names), model=model)


def label_number(experiment: Experiment, name: str) -> int:
    """What the network of a run is given for the label `name`; UserError where it has no such label."""
    names = experiment.data.label_names
    if experiment.model.num_labels is None or not names:
        raise UserError(
            f"label {name!r}: the run was trained without labels; leave it out, or train one with "
            "--set data.labels=folder or period"
        )
    if name not in names:
        raise UserError(f"label {name!r}: the run has no such label; it has {', '.join(names)}")
    return names.index(name)


def gives_labels(experiment: Experiment) -> bool:
    """Whether evaluation gives the network the labels of sequences."""
    return experiment.data.labels is not None and experiment.evaluation.labels


def check_labels(experiment: Experiment) -> None:
    """UserError where a (resolved) run cannot be trained or evaluated with labels, or not without, as
    asked."""
    if experiment.process.traits.labels == "required" and not experiment.data.labels:
        raise UserError(
            f"{type(experiment.process).__name__} learns the labels of sequences: set data.labels to "
            "folder or period"
        )
    if gives_labels(experiment):
        if experiment.model.num_labels is None:
            raise UserError(
                f"data.labels = {experiment.data.labels}, but the run was trained without labels; leave "
                "it out"
            )
    elif experiment.data.label_names and experiment.train.label_dropout == 0:
        raise UserError(
            "evaluation.labels = False, but with train.label_dropout = 0 the network never sees a "
            "sequence without its label; leave it out, or train with dropout"
        )
