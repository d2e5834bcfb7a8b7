"""Constraints on samples besides known tokens, and the network that is steered towards them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.model import Model
from diffusion.process import Composed, JumpProcess, Sequential, denoising_process
from diffusion.simplex import EvidenceProcess
from experiments.config import Experiment
from experiments.data.tokenizers import token_number
from experiments.errors import UserError
from experiments.labels import label_number
from experiments.overrides import differences
from experiments.run import Run
from experiments.sampling.attributes import Attribute
from experiments.sampling.known import encode
from samplers import guidance
from samplers.automaton import Automaton, Constrained
from samplers.discrete_guidance import ByClassifier, MixedPosteriors
from samplers.ending import Suppressed
from samplers.plan_and_write import Steered
from samplers.required import fits


@dataclass(frozen=True)
class SamplingConstraints:
    """What samples must have besides their known tokens.

    words: tokens that samples contain, each in a row. label: its number; strength: of guidance towards
    it, or without a label towards the known tokens, at times within `interval`. classifier: the run that
    guides, None for classifier-free guidance; exact: whether it is asked for every change of a token,
    not for its gradient. pattern: what samples match, after their known start. stop: tokens that end a
    sample, which `min_tokens` others after its known start precede, at least. attributes: of the
    embedding of the text, where the sampler makes one, all of which are wanted.
    """

    words: tuple[tuple[int, ...], ...] = ()
    label: int | None = None
    strength: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)
    classifier: Run | None = None
    exact: bool = False
    pattern: Automaton | None = None
    stop: tuple[int, ...] = ()
    min_tokens: int = 0
    attributes: tuple[Attribute, ...] = ()

    @property
    def guide(self) -> Any:
        """The parameters of the classifiers, which `network` is given; None where there are none."""
        if self.attributes:
            return [attribute.classifier.params for attribute in self.attributes]
        return self.classifier and self.classifier.params

    def network(
        self,
        experiment: Experiment,
        params: dict,
        guide: Any,
        known: Array,
        tell: Callable[[], None] | None = None,
    ) -> Model:
        """The network of the experiment, steered towards the constraints; guide: as the property has
        it; known: (B, L), the tokens of the prompt, -1 elsewhere. For a sampler that
        `guides_steps` the distribution of a step is what is changed. tell: called at each step of
        `exact`, which is slow."""
        network = self._guided(experiment, params, guide, tell, known)
        if self.min_tokens:
            until = jnp.argmin(jnp.pad(known, ((0, 0), (0, 1)), constant_values=-1) >= 0, axis=1)
            until = until + self.min_tokens
            network = Suppressed(experiment.bind(params), network, self.stop, until)
        return network if self.pattern is None else Constrained(network, self.pattern)

    def _guided(self, experiment, params, guide, tell, known) -> Model:
        if self.attributes:
            both = zip(self.attributes, guide, strict=True)
            log_p = tuple(attribute.log_p(own) for attribute, own in both)
            return Steered(experiment.network(params), log_p, self.strength, self.interval)
        if self.label is None and self.strength == 1:
            return experiment.network(params)
        process = experiment.bind(params)
        if self.classifier is not None:
            assert guide is not None and self.label is not None  # what `classifier` is asked for
            label = jnp.full(1, self.label)  # of all rows, however many
            log_p_label = self.classifier.experiment.network(guide, label=label)
            free, interval = experiment.network(params), self.interval
            if isinstance(process, EvidenceProcess):
                return guidance.classifier(process, free, log_p_label, self.strength, interval)
            assert isinstance(process, JumpProcess)  # `NoisyClassifier` is of these two
            free = _telling(free, tell) if self.exact and tell else free
            return ByClassifier(
                process, free, log_p_label, self.strength, self.exact, interval=interval
            )

        def labelled(label):
            return experiment.network(params, label=jnp.full(1, label))

        if self.label is None:
            mask = denoising_process(process).space.mask
            assert mask is not None  # `guidance.hides_prompts`
            conditional = experiment.network(params)
            free = guidance.HiddenPrompt(conditional, mask, known)
        else:
            conditional = labelled(self.label)
            if self.strength == 1:
                return conditional
            free = labelled(experiment.model.num_labels)
        two = (conditional, free, self.strength)
        if experiment.sampler.guides_steps:
            assert isinstance(process, JumpProcess)  # `Posterior.requires`
            return MixedPosteriors(process, *two, interval=self.interval)
        return guidance.classifier_free(process, *two, interval=self.interval)


def _telling(network: Model, tell: Callable[[], None]) -> Model:
    """The network, which calls `tell` whenever it is called. Its program is stored nowhere."""

    def model(z, t):
        jax.debug.callback(tell)
        return network(z, t)

    return model


UNCONSTRAINED = SamplingConstraints()


def make_constraints(
    experiment: Experiment,
    known: np.ndarray,
    words: Sequence[str] = (),
    label: str | None = None,
    strength: float = 1.0,
    interval: Sequence[float] = (0.0, 1.0),
    classifier: Run | None = None,
    exact: bool = False,
    pattern: Automaton | None = None,
    stop: tuple[int, ...] = (),
    min_tokens: int = 0,
) -> SamplingConstraints:
    """The constraints, from text; UserError for what the run cannot do."""
    low, high = interval
    if not 0 <= low < high <= 1:
        raise UserError(f"--guidance-interval {low} {high} must rise within [0, 1]")
    if not math.isfinite(strength):
        raise UserError(f"--guidance {strength}: must be finite")
    if label is None and classifier is not None:
        raise UserError("--classifier needs a label; name it with --label")
    if label is None and strength != 1:
        _check_prompt(experiment, known, strength, (low, high))
    if exact and classifier is None:
        raise UserError("--exact is for guidance by a classifier; give its run with --classifier")
    required = _words(experiment, known, words)
    number = None
    if classifier is not None:
        _check_classifier(experiment, classifier, (low, high), exact)
    if label is not None:
        number = label_number(experiment if classifier is None else classifier.experiment, label)
    guided = classifier is not None or strength != 1
    if guided or label is None:
        _check_dropout(experiment, guided, number is None)
    if guided and low > 0 and isinstance(experiment.process, Sequential):
        name = type(experiment.process).__name__
        raise UserError(
            f"--guidance-interval {low} ...: {name} has no times (t is always 0); leave it out"
        )
    sampler = experiment.sampler
    if (
        guided
        and sampler.guides_steps
        and not (sampler.logits_processor.is_identity and min_tokens == 0)
    ):
        raise UserError(
            f"{type(sampler).__name__} with guidance changes the distribution of a step and does "
            "not support a logits processor or --min-tokens: leave out the guidance, or the options "
            "that change the distribution of a token"
        )
    if pattern is not None:
        _check_pattern(experiment, required, stop)
    return SamplingConstraints(
        required, number, strength, (low, high), classifier, exact, pattern, stop, min_tokens
    )


def _check_pattern(experiment: Experiment, required, stop: tuple[int, ...]) -> None:
    """UserError where a pattern, which is of the whole text, does not know of what is asked besides."""
    if required:
        raise UserError(
            "a pattern cannot be combined with it; put the text into the pattern", "", "--require"
        )
    data = experiment.data
    end = (token_number(data.tokenizer, data.end, "data.end"),) if data.end else ()
    if stop not in ((), end):
        raise UserError(
            "a pattern cannot be combined with it, but for data.end; let the pattern say how texts end",
            "",
            "--stop",
        )


def _check_prompt(experiment: Experiment, known, strength: float, interval) -> None:
    """UserError where there is no prompt to guide to, or none that the network can be asked without."""
    if (known < 0).all():
        raise UserError(
            f"--guidance {strength} needs a label, or known text to guide to",
            "name the label with --label, or give --prompt",
        )
    sampler, name = experiment.sampler, type(experiment.process).__name__
    if not guidance.hides_prompts(experiment.process):
        raise UserError(
            f"--guidance {strength} without a label masks the prompt, which {name} cannot",
            "use a masked process on whole texts, such as MDLM or RADD, or guide to a --label",
        )
    if sampler.seen_together(known.shape[-1]) < known.shape[-1]:
        raise UserError(
            f"--guidance {strength}: {type(sampler).__name__} sees a part of the text at a time",
            "use a sampler of the whole text, such as Ancestral or Unmask",
        )
    _check_cached(experiment, interval != (0, 1))


def _check_cached(experiment: Experiment, timed: bool) -> None:
    """UserError where outputs are stored and guidance makes them depend on time, or keys and values
    are, of which a network that is asked about another text has none."""
    if experiment.sampler.decodes:
        raise UserError(
            f"{type(experiment.sampler).__name__} holds keys and values, which this guidance cannot; "
            "set sampler.fresh=None"
        )
    if timed and experiment.sampler.layers[-1].cached:
        raise UserError(
            "sampler.cached = True, but guidance that depends on time changes the distribution "
            "where no token does; set it to False"
        )


def _words(experiment, known, words) -> tuple[tuple[int, ...], ...]:
    """The tokens of required words, the longest first."""
    tokens = [encode(experiment.data.tokenizer, word, "--require") for word in words if word]
    tokens.sort(key=len, reverse=True)
    if tokens and experiment.process.traits.attention_block is not None:
        raise UserError(
            f"--require: {type(experiment.process).__name__} writes from left to right and cannot "
            "place a later word; use another process, such as MDLM"
        )
    for row in np.atleast_2d(known):
        if not fits((row < 0).tolist(), tokens):
            sizes = " and ".join(str(len(word)) for word in tokens)
            raise UserError(
                f"--require: text of {sizes} tokens may not fit into {int((row < 0).sum())} blanks "
                f"of {len(row)} tokens; shorten it, or raise --length"
            )
    return tuple(tuple(int(v) for v in word) for word in tokens)


def _check_dropout(experiment: Experiment, guided: bool, free: bool) -> None:
    """UserError where the distribution without labels is asked for, and the run never saw text
    without."""
    if not experiment.data.label_names or experiment.train.label_dropout:
        return
    if free:
        raise UserError(
            "the run was trained with a label on every sequence (train.label_dropout = 0); give one "
            f"with --label: {', '.join(experiment.data.label_names)}"
        )
    raise UserError(
        "guidance: the run never saw text without its label (train.label_dropout = 0); leave out "
        "--guidance, which is strength 1, and --classifier"
    )


def _check_classifier(experiment, classifier: Run, interval, exact: bool) -> None:
    """UserError where the classifier's run is none, or is of another noise or alphabet."""
    noisy, process = classifier.experiment.process, experiment.process
    name = type(process).__name__
    if noisy.traits.output != "label" or not isinstance(noisy, Composed):
        raise UserError(
            f"--classifier: its run holds a {type(noisy).__name__}, not a classifier; train one with "
            "--config configs/sotu/classifier.py"
        )
    if classifier.experiment.data.tokenizer != experiment.data.tokenizer:
        raise UserError("--classifier was trained on another alphabet")
    if noisy.base != process:
        what = type(noisy.base).__name__
        if type(noisy.base) is type(process):
            changed = differences(noisy.base, process)
            what = "; ".join(f"{path}: {values}" for path, values in changed.items())
        raise UserError(
            f"--classifier was trained on other noise ({what}) than the run's {name}; train one with "
            "the run's process and its settings as process.base"
        )
    if exact and isinstance(process, EvidenceProcess):
        raise UserError(f"--exact: states of {name} are not tokens; leave it out, for the gradient")
    _check_cached(experiment, classifier.experiment.model.time_conditioning or interval != (0, 1))
