"""Samples of a run: what is given, and the compiled loop over batches of samples."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.random import fold_in
from experiments.config import Experiment
from experiments.data.tokenizers import Letters27, Tokenizer
from experiments.errors import UserError
from experiments.labels import label_number
from experiments.memory import check_memory
from experiments.runs import Run
from experiments.sampling_grid import fitted_information
from experiments.settings import leaves, override
from experiments.sharding import batch_shards, global_batch, replicated
from samplers.discrete_guidance import MixedPosteriors
from samplers.guidance import classifier_free
from samplers.posterior import Posterior
from samplers.required import fit, place
from samplers.sampler import Frames, Sampled
from samplers.transform import Transform


def given_tokens(
    tokenizer: Tokenizer, length: int, prompt: str, template: str | None, blank: str
) -> np.ndarray:
    """(L,) int32, -1 where the model is to fill in; UserError for what cannot stand in a sample."""
    if prompt and template is not None:
        raise UserError(
            "--prompt and --template exclude each other; put the prompt into the template"
        )
    if len(blank) != 1:
        raise UserError(f"--blank {blank!r} must be one character")
    known = np.full(length, -1, np.int32)
    name, text = ("--prompt", prompt) if template is None else ("--template", template)
    parts, at = (text.split(blank) if template is not None else [text]), 0
    for number, part in enumerate(parts):
        at += number > 0
        tokens = _encode(tokenizer, part, name)
        if at + len(tokens) > length:
            raise UserError(
                f"{name} is longer than the model's {length} tokens; shorten it, or raise --length"
            )
        known[at : at + len(tokens)] = tokens
        at += len(tokens)
    return known


def _encode(tokenizer: Tokenizer, text: str, option: str) -> np.ndarray:
    """The tokens of text given on the command line, (n,) int32."""
    try:
        return np.concatenate([*tokenizer.encode([text], option), np.zeros(0, np.int32)])
    except UserError as error:
        said, advice = str(error).partition(";")[0], "a run keeps the alphabet it was trained with"
        if isinstance(tokenizer, Letters27):
            advice += ", to which --set data.tokenizer.normalize=True maps text"
        raise UserError(f"{said}; {advice}") from None


def with_setting(experiment: Experiment, name: str, value, option: str) -> Experiment:
    """The experiment with a setting of its sampler, or the sampler inside of it, by last names."""
    paths = [path for path in leaves(experiment.sampler) if f".{path}".endswith(f".{name}")]
    if not paths:
        parts = [type(experiment.sampler).__name__]
        parts += [
            f"{f.name} {type(part).__name__}"
            for f in fields(experiment.sampler)
            if is_dataclass(part := getattr(experiment.sampler, f.name)) and f.name != "transform"
        ]
        raise UserError(
            f"{option} {value}: sampler {', '.join(parts)} has no setting {name}; leave it out "
            "or choose another --sampler"
        )
    return override(experiment, [f"sampler.{paths[0]}={value}"])


def with_steps(experiment: Experiment, steps: int) -> Experiment:
    """The experiment with `steps` of its sampler, those per block where it goes block by block."""
    return with_setting(experiment, "steps", steps, "--steps")


_LAW = ("temperature", "top_k", "top_p", "min_p", "eta", "repetition")


def chosen(run: Run, given: Namespace) -> Run:
    """The run with the options of the command line that are settings of its sampler."""
    experiment = run.experiment
    if given.steps:
        experiment = with_steps(experiment, given.steps)
    if given.grid == "fitted":
        information = fitted_information(given.workdir, run)
        experiment = with_setting(experiment, "information", information, "--grid fitted:")
    if given.grid:
        experiment = with_setting(experiment, "grid", given.grid, "--grid")
    for name in _LAW:
        value = getattr(given, name)
        if value is not None:
            option = "--" + name.replace("_", "-")
            experiment = with_setting(experiment, f"transform.{name}", value, option)
    if given.ban:
        tokens = _encode(experiment.data.tokenizer, given.ban, "--ban")
        banned = tuple(sorted({int(v) for v in tokens}))
        if len(banned) == experiment.data.tokenizer.vocab_size:
            raise UserError("--ban: nothing is left to draw; ban fewer tokens")
        experiment = with_setting(experiment, "transform.banned", banned, "--ban")
    return replace(run, experiment=experiment)


def check_given(experiment: Experiment, known: np.ndarray) -> None:
    """UserError for a token given after a blank, to a sampler that goes from left to right by blocks:
    it would write the blank without regard to it."""
    size = getattr(experiment.process, "block_length", None)
    if size is None or (known >= 0).all():
        return
    block, first = np.arange(len(known)) // size, int(np.argmax(known < 0))
    late = np.flatnonzero((known >= 0) & (block > first // size))
    if len(late):
        raise UserError(
            f"{type(experiment.process).__name__} writes from left to right, {size} tokens at a time, "
            f"and the blank at {first} would not know what is given at {late[0]}; give a prompt "
            "alone, or use a process that is not from left to right, such as MDLM"
        )


@dataclass(frozen=True)
class Wish:
    """What samples are to be, besides the tokens that are given: words (tokens) that they contain, their
    label, and the strength of guidance towards it, which acts at times within `interval`."""

    words: tuple[tuple[int, ...], ...] = ()
    label: int | None = None
    strength: float = 1.0
    interval: tuple[float, float] = (0.0, 1.0)


def make_wish(
    experiment: Experiment,
    known: np.ndarray,
    words: Sequence[str] = (),
    label: str | None = None,
    strength: float = 1.0,
    interval: Sequence[float] = (0.0, 1.0),
) -> Wish:
    """The wish, from text; UserError for what the run cannot do."""
    process = type(experiment.process).__name__
    in_order = getattr(experiment.process, "block_length", None) is not None
    tokenizer = experiment.data.tokenizer
    tokens = [_encode(tokenizer, word, "--require") for word in words if word]
    tokens.sort(key=len, reverse=True)
    if tokens and in_order:
        raise UserError(
            f"--require: {process} writes from left to right and cannot know of a word to come; use a "
            "process that is not from left to right, such as MDLM"
        )
    if not fit((known < 0).tolist(), tokens):
        sizes = " and ".join(str(len(word)) for word in tokens)
        raise UserError(
            f"--require: text of {sizes} tokens may not find room among {int((known < 0).sum())} blanks "
            f"of {len(known)} tokens; shorten it, or raise --length"
        )
    number = None if label is None else label_number(experiment, label)
    if label is None and strength != 1:
        raise UserError(f"--guidance {strength} is towards a label; name it with --label")
    if label is None and experiment.data.label_names and experiment.train.label_dropout == 0:
        raise UserError(
            "the run was trained with a label on every sequence (train.label_dropout = 0); give one "
            f"with --label: {', '.join(experiment.data.label_names)}"
        )
    if strength != 1 and experiment.train.label_dropout == 0:
        raise UserError(
            f"--guidance {strength}: the run never saw text without its label (train.label_dropout "
            "= 0); leave it out, which is strength 1"
        )
    if strength != 1 and interval[0] > 0 and hasattr(experiment.process, "log_p"):
        raise UserError(
            f"--guidance-interval {interval[0]} ...: {process} has no times, all is at 0; leave it out"
        )
    bent = not getattr(experiment.sampler, "transform", Transform()).is_identity
    if strength != 1 and bent and isinstance(experiment.sampler, Posterior):
        raise UserError(
            "Posterior with --guidance mixes laws of a step, not of a token, and takes no transform: "
            "leave out --guidance, or what changes the law of a token"
        )
    low, high = interval
    if not 0 <= low < high <= 1:
        raise UserError(f"--guidance-interval {low} {high} must rise within [0, 1]")
    words = tuple(tuple(int(v) for v in word) for word in tokens)
    return Wish(words, number, strength, (low, high))


def _model(experiment: Experiment, params, wish: Wish):
    """The network, bent as wished: by mixed posteriors for the sampler that draws from them."""
    if wish.label is None:
        return experiment.network(params)

    def labelled(label):
        return experiment.network(params, label=jnp.full(1, label))  # of all rows, however many

    conditional = labelled(wish.label)
    if wish.strength == 1:
        return conditional
    guided = MixedPosteriors if isinstance(experiment.sampler, Posterior) else classifier_free
    process, free = experiment.bind(params), labelled(experiment.model.num_labels)
    return guided(process, conditional, free, wish.strength, interval=wish.interval)


def make_sample(experiment: Experiment, mesh, wish: Wish = Wish(), trace: bool = False):
    """sample(params, seed, numbers (B,), given (L,)) -> (`Sampled`, given (B, L) with what was wished),
    one compiled program."""

    def run(params, seed, numbers, given):
        keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(seed), n))(numbers)
        shape = (len(numbers), len(given))
        known = jnp.broadcast_to(given, shape)
        process, network = experiment.bind(params), _model(experiment, params, wish)
        if wish.words:
            known = place(fold_in(keys, 1), process, network, known, wish.words)
        sampled = experiment.sampler.run(keys, process, network, shape, known, trace=trace)
        return sampled, known

    return jax.jit(run, out_shardings=replicated(mesh))


def sample_run(
    run: Run, num: int, seed: int, known: np.ndarray, batch_size: int, wish: Wish = Wish(),
    trace: bool = False,
) -> Iterator[tuple[int, Sampled, np.ndarray]]:  # fmt: skip
    """(number, what was sampled, what was given), as arrays of one row, of samples 0 to num - 1."""
    if trace and not run.experiment.sampler.keeps_frames:
        raise UserError(
            f"--trace: sampler {type(run.experiment.sampler).__name__} keeps no frames; use one that "
            "works on the whole sequence, such as Ancestral or FirstHitting"
        )
    shards = batch_shards(run.mesh)
    batch = -(-batch_size // shards) * shards
    check_memory(run.experiment, batch, run.mesh, "--batch-size")
    compiled = make_sample(run.experiment, run.mesh, wish, trace)
    for first in range(0, num, batch):
        numbers = global_batch(run.mesh, np.arange(first, first + batch), axis=0)
        sampled, given = jax.tree.map(np.asarray, compiled(run.params, seed, numbers, known))
        for i in range(min(batch, num - first)):
            frames = sampled.frames and Frames(*(a[:, i] for a in sampled.frames))
            yield (
                first + i,
                Sampled(sampled.x0[i], sampled.calls[i] + len(wish.words), frames),
                given[i],
            )
