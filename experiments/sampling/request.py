"""What samples a user asks for, as values, and the run made ready to draw them."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from diffusion.process import denoising_process, has_noisy_text
from experiments.config import Experiment
from experiments.errors import UserError
from experiments.evaluation.conditional import begin_of
from experiments.evaluation.record import precision
from experiments.overrides import OverrideError
from experiments.run import Run, load_run
from experiments.sampling.attributes import make_attributes
from experiments.sampling.constraints import SamplingConstraints, make_constraints
from experiments.sampling.grid import fitted_information
from experiments.sampling.known import banned, check_known, encode_known
from experiments.sampling.patterns import make_pattern
from experiments.sampling.samples import with_setting, with_steps
from experiments.sampling.stops import stop_tokens, stopping
from experiments.sampling.undrawn import changed, never_drawn
from experiments.serialization import encode
from experiments.streams import complain

_OF_TOKENS = ("temperature", "top_k", "top_p", "min_p", "eta", "repetition")


@dataclass(frozen=True)
class Request:
    """The options of `ddlm sample` but for how many samples, and where they go.

    sampler: its name, with settings behind it ("Unmask order=random"). steps, grid, temperature to
    repetition: settings of the sampler; None leaves the run's. length: tokens of a sample. prompt:
    text that every sample begins with; prompts: several, of any lengths, each with samples of its own;
    template: text with blanks, for each of which the character `blank` stands, and of texts that grow by
    insertion `stretch` for any number of tokens. regex: a regular
    expression that what comes after the prompt matches as a whole, or json_schema: a JSON schema, as
    text or a dict. require: texts that every sample contains. ban: text whose tokens are never drawn.
    stop: tokens that end a sample; () is the end of a run of pairs. min_tokens: how many tokens come
    after the known start, at least, before one of them.
    label, guidance, guidance_interval: the label to guide to, how strongly, and at which times; without
    a label it is the known text (`samplers.guidance`).
    classifier: the run that guides, by its gradient or, if exact, asked for every change of a token. Of
    DGLM there may be several labels, with a classifier for each, or one for all.
    seed: sample number i depends on it and on i alone. changes: other settings, as of --set.
    """

    sampler: str | None = None
    steps: int | None = None
    grid: str | None = None
    length: int | None = None
    prompt: str = ""
    prompts: Sequence[str] = ()
    template: str | None = None
    blank: str = "_"
    stretch: str = ""
    regex: str | None = None
    json_schema: str | Mapping | None = None
    require: Sequence[str] = ()
    ban: str = ""
    stop: Sequence[str] = ()
    min_tokens: int = 0
    repetition: float | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    eta: float | None = None
    label: str | Sequence[str] | None = None
    guidance: float = 1.0
    guidance_interval: Sequence[float] = (0.0, 1.0)
    classifier: str | Sequence[str] | None = None
    exact: bool = False
    seed: int = 0
    changes: tuple[str, ...] = ()

    def __post_init__(self):
        for name in ("prompts", "require", "stop", "changes"):
            texts = getattr(self, name)
            if isinstance(texts, str):  # whose letters are texts too
                object.__setattr__(self, name, (texts,))
            elif not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
                raise UserError(f"{name} = {texts!r} must be a list of texts")
        if type(self.min_tokens) is not int or self.min_tokens < 0:
            raise UserError(f"min_tokens = {self.min_tokens!r} must be a number from 0 on")


@dataclass(frozen=True)
class Prepared:
    """The run with its sampler as asked for; known: tokens (L,), -1 where the model fills in, or (P, L)
    of P prompts; constraints: on samples besides; description: of how they are drawn, the same for all
    samples of a file."""

    run: Run
    known: np.ndarray
    constraints: SamplingConstraints
    description: dict


def prepare(run: Run, request: Request, workdir: str) -> Prepared:
    """The run of `workdir` made ready for the request; UserError for what it cannot do."""
    if run.experiment.process.traits.output == "label":
        raise UserError(
            f"workdir {workdir} holds a classifier, which generates no text",
            f"it guides a run on the same noise: --workdir RUN --classifier {workdir} --label NAME",
        )
    experiment = _of_sampler(_changed(run.experiment, request), run, request, workdir)
    _check_growing(experiment, request)
    stop = stop_tokens(experiment.data, request.stop, request.min_tokens)
    experiment = stopping(experiment, stop)
    run = replace(run, experiment=experiment)
    classifiers = [load_run(name) for name in _several(request.classifier)]
    known = _known(experiment, request)
    for row in np.atleast_2d(known):
        check_known(experiment, row)
    constraints = _constraints(run, request, known, classifiers, stop)
    if (known >= 0).any():
        _tell_of_bias(experiment)
        if request.guidance != 1 and not request.label:
            _tell_of_pairs(experiment)
    return Prepared(run, known, constraints, _description(run, request, classifiers))


def _several(names: str | Sequence[str] | None) -> Sequence[str]:
    """The names, of which there may be one or none."""
    return (names,) if isinstance(names, str) else names or ()


def _constraints(
    run: Run, request: Request, known: np.ndarray, classifiers: list[Run], stop: tuple[int, ...]
) -> SamplingConstraints:
    """What samples must have besides their known tokens."""
    experiment, labels = run.experiment, _several(request.label)
    pattern = make_pattern(experiment, known, request.regex, request.json_schema)
    make = partial(make_constraints, experiment, known, request.require, pattern=pattern, stop=stop)
    if experiment.sampler.guides_embeddings:
        _check_planned(experiment, request)
        attributes = make_attributes(run, labels, classifiers, request.guidance)
        made = make(interval=request.guidance_interval)
        return replace(made, attributes=attributes, strength=request.guidance)
    if len(labels) > 1 or len(classifiers) > 1:
        raise UserError(
            f"{len(labels)} --label and {len(classifiers)} --classifier: "
            f"{type(experiment.sampler).__name__} is guided to one",
            "give one of each, or use a run of DGLM (configs/sotu/dglm.py)",
        )
    return make(
        label=next(iter(labels), None),
        strength=request.guidance,
        interval=request.guidance_interval,
        classifier=next(iter(classifiers), None),
        exact=request.exact,
        min_tokens=request.min_tokens,
    )


def _check_planned(experiment: Experiment, request: Request) -> None:
    """UserError for options that do not go with a text that is planned by an embedding."""
    name = type(experiment.process).__name__
    if request.exact:
        raise UserError(f"--exact: {name} is guided by the gradient of a classifier; leave it out")
    if request.min_tokens:
        raise UserError(
            f"--min-tokens {request.min_tokens}: {name} cannot keep a text from ending; leave it out"
        )
    if not math.isfinite(request.guidance):
        raise UserError(f"--guidance {request.guidance}: must be finite")


def _tell_of_bias(experiment: Experiment) -> None:
    """Nothing; a note where the network takes known tokens for noisy ones."""
    process, sampler = experiment.process, experiment.sampler
    if not has_noisy_text(process) or experiment.data.rows == "pair":
        return  # it reads no noise, or takes tokens as they are, or has learned from clean prompts
    biased = denoising_process(process).known_tokens == "biased"
    if biased and not any(layer.weighs_known for layer in sampler.layers):
        complain(
            f"note: {type(process).__name__} takes known text for noisy text and heeds it too little; "
            "--sampler TwistedSMC does not"
        )


def _tell_of_pairs(experiment: Experiment) -> None:
    """Nothing; a note where the network cannot know what text is like without its prompt."""
    if experiment.data.rows == "pair" and not experiment.init_from:
        complain(
            "note: this run learned from pairs alone and saw no text without its prompt, so --guidance "
            "compares with a guess; a run that begins with one of whole texts (init_from) knows it"
        )


def _check_growing(experiment: Experiment, request: Request) -> None:
    """UserError for options that do not go with texts that grow by insertion, or go with them alone."""
    name = type(experiment.process).__name__
    if not experiment.process.traits.inserts:
        if request.stretch:
            raise UserError(
                f"--stretch {request.stretch!r}: {name} writes texts of a fixed length",
                "leave it out, or use a run of FlexMDM (configs/sotu/flex_mdm.py)",
            )
        return
    for option, given in (
        ("--require", request.require),
        ("--regex", request.regex),
        ("--json-schema", request.json_schema),
        ("--stop", request.stop),
        ("--min-tokens", request.min_tokens),
        ("--guidance", request.guidance != 1),
        ("--classifier", request.classifier),
    ):
        if given:
            raise UserError(
                f"{option}: {name} inserts tokens, so that places in a text move",
                "leave it out, or use a process on texts of a fixed length, such as MDLM",
            )


def _known(experiment: Experiment, request: Request) -> np.ndarray:
    """The known tokens (L,) that the request gives, or (P, L) where it gives P prompts."""
    data = experiment.data
    begin = begin_of(data) if data.rows == "pair" else None

    def encoded(prompt):
        return encode_known(
            data.tokenizer,
            data.length,
            prompt,
            request.template,
            request.blank,
            begin,
            request.stretch,
            experiment.process.traits.inserts,
        )

    if not request.prompts:
        return encoded(request.prompt)
    if request.prompt or request.template is not None:
        other = "--prompt" if request.prompt else "--template"
        raise UserError(f"--prompts and {other} cannot be combined; leave one of them out")
    rows = []
    for number, prompt in enumerate(request.prompts, 1):
        try:
            rows.append(encoded(prompt))
        except UserError as error:
            raise UserError(error.what, error.advice, f"--prompts, prompt {number}") from error
    return np.stack(rows)


def _changed(experiment: Experiment, request: Request) -> Experiment:
    """The experiment with the sampler, the length and the changes that are asked for."""
    name, *settings = request.sampler.split() if request.sampler else [""]
    overrides = [f"sampler={name}"] if name else []
    overrides += [f"sampler.{setting}" for setting in settings] + list(request.changes)
    if request.length:
        overrides.append(f"data.length={request.length}")
    try:
        return changed(experiment, overrides)
    except OverrideError as error:
        if not (name and error.setting.startswith("sampler")):
            raise
        about = f'--sampler "{request.sampler}": {error.setting}'
        raise UserError(error.what, error.advice, about) from error


def _of_sampler(experiment: Experiment, run: Run, request: Request, workdir: str) -> Experiment:
    """The experiment with the settings of its sampler that are asked for by name."""
    if request.steps:
        experiment = with_steps(experiment, request.steps)
    if request.grid == "fitted":
        information = fitted_information(workdir, replace(run, experiment=experiment))
        experiment = with_setting(experiment, "information", information, "--grid fitted:")
    if request.grid:
        experiment = with_setting(experiment, "grid", request.grid, "--grid")
    for name in _OF_TOKENS:
        value = getattr(request, name)
        if value is not None:
            option = "--" + name.replace("_", "-")
            experiment = with_setting(experiment, f"logits_processor.{name}", value, option)
    if request.ban:
        tokens = banned(experiment.data.tokenizer, request.ban)
        if len(tokens) == experiment.data.tokenizer.vocab_size:
            raise UserError("nothing is left to draw", "ban fewer tokens", "--ban")
        tokens = tuple(sorted({*tokens, *never_drawn(experiment.sampler)}))
        experiment = with_setting(experiment, "logits_processor.banned", tokens, "--ban")
    return experiment


def _digest(prompts: Sequence[str]) -> str | None:
    """What tells lists of prompts apart; None of an empty one."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest() if prompts else None


def _description(run: Run, request: Request, classifiers: list[Run]) -> dict:
    """What every line of a file of samples says of how they were drawn: samples of equal descriptions
    are those of one file, whatever their number and the batch size."""
    experiment = run.experiment
    description = {
        "seed": request.seed,
        "checkpoint_step": run.step,
        "checkpoint_fingerprint": run.fingerprint,
        "precision": precision(experiment),
        "process": type(experiment.process).__name__,
        "sampler": encode(experiment.sampler),
        "length": experiment.data.length,
    }
    guided, fingerprints = (
        request.guidance != 1 or classifiers,
        [c.fingerprint for c in classifiers],
    )
    requested = {
        "prompt": request.prompt,
        "prompts_sha256": _digest(request.prompts),
        "template": request.template,
        "blank": request.blank if request.template is not None else None,
        "stretch": request.stretch,
        "regex": request.regex,
        "json_schema": request.json_schema,
        "require": list(request.require),
        "stop": list(request.stop),
        "min_tokens": request.min_tokens,
        "label": request.label,
        "guidance": request.guidance if guided else None,
        "guidance_interval": list(request.guidance_interval) if guided else None,
        "classifier_fingerprint": fingerprints[0] if len(fingerprints) == 1 else fingerprints,
        "exact": request.exact,
        "set": [change for change in request.changes if not change.startswith("sampler")],
    }
    return description | {
        name: value for name, value in requested.items() if value or isinstance(value, float)
    }
