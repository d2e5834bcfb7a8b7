"""What a text is to be about, where its sampler makes an embedding of it first: labels of runs that
classify embeddings, all of which guide it together."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from diffusion.vector_diffusion import LogAttribute
from experiments.errors import UserError
from experiments.labels import label_number
from experiments.run import Run

_TRAIN = "train one with --config configs/sotu/dglm_classifier.py --set init_from=RUN, the run's"


@dataclass(frozen=True)
class Attribute:
    """A label, by its number, of a run that classifies embeddings."""

    classifier: Run
    label: int

    def log_p(self, params: dict) -> LogAttribute:
        """log p(label | embedding), of the classifier with these parameters."""
        classifier = self.classifier.experiment.network(params).part("classifier")
        label = jnp.full(1, self.label)
        return lambda x: classifier(x, jnp.zeros((len(x), 1)), label=label)


def make_attributes(
    run: Run, labels: Sequence[str], classifiers: Sequence[Run], strength: float
) -> tuple[Attribute, ...]:
    """Each label with its classifier, or all with the only one; UserError for what does not fit the
    run, whose sampler makes embeddings."""
    name = type(run.experiment.process).__name__
    if not labels:
        if classifiers:
            raise UserError("--classifier needs a label; name it with --label")
        if strength != 1:
            raise UserError(
                f"--guidance {strength}: {name} is guided by classifiers of embeddings, to a label",
                "name it with --label, and give the classifier's run with --classifier",
            )
        return ()
    if not classifiers:
        raise UserError(
            f"--label {labels[0]}: {name} is guided by classifiers of embeddings; {_TRAIN}",
            "and give it with --classifier",
        )
    if len(classifiers) not in (1, len(labels)):
        raise UserError(
            f"{len(labels)} --label and {len(classifiers)} --classifier; give one classifier for each "
            "label, in the same order, or one for all"
        )
    for classifier in classifiers:
        _check(run, classifier)
    of_each = classifiers if len(classifiers) == len(labels) else [*classifiers] * len(labels)
    return tuple(
        Attribute(classifier, label_number(classifier.experiment, label))
        for label, classifier in zip(labels, of_each, strict=True)
    )


def _check(run: Run, classifier: Run) -> None:
    """UserError for a run that is no classifier of embeddings, or of other ones than the run's."""
    model, process = classifier.experiment.model, classifier.experiment.process
    if "classifier" not in model.parts:
        raise UserError(
            f"--classifier: its run holds a {type(process).__name__}, which classifies no embeddings; "
            f"{_TRAIN}"
        )
    own, other = run.params["encoder"], classifier.params["encoder"]
    same = model.parts["encoder"] == run.experiment.model.parts["encoder"] and all(
        np.array_equal(own[name], other[name]) for name in ("mean", "deviation")
    )
    if not same:
        raise UserError(f"--classifier was trained on other embeddings than the run's; {_TRAIN}")
