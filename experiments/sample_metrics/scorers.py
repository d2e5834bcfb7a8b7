"""Causal language models that judge text: nats of each text, and what it is as a point (for MAUVE).

Each text is scored from its start with no context before it; one longer than the model's room is scored
in consecutive pieces, each with no context either. log p of a text is the sum over its tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.process import Sequential
from experiments.config import Experiment
from experiments.data.tokenizers import OutsideAlphabet, Tokenizer
from experiments.errors import UserError
from experiments.evaluation.ngram import ngram_nats
from experiments.evaluation.units import Estimate
from experiments.run import Run, load_run

Told = Callable[[int, int], None]


def untold(done: int, total: int) -> None:
    """Nothing."""


class Scorer(ABC):
    """A causal language model that judges text."""

    @property
    def experiment(self) -> Experiment | None:
        """That of a run; None of another model."""
        return None

    @property
    @abstractmethod
    def described(self) -> dict:
        """What it is, for the record."""

    @abstractmethod
    def tokens(self, text: str, where: str) -> np.ndarray:
        """The tokens of a text, int; UserError naming `where` for one outside its alphabet."""

    @abstractmethod
    def score(self, texts: Sequence[str], progress: Told = untold) -> Estimate:
        """The nats of each text, its tokens and the characters of all, as far as they are scored;
        progress(pieces done, pieces) is called in between."""

    @abstractmethod
    def features(self, texts: Sequence[str], progress: Told = untold) -> np.ndarray:
        """(N, D): each text as a point, from the hidden states of its last piece; progress as above."""


def load_scorer(path: str) -> Scorer:
    """The scorer at `path`: a run directory of an autoregressive model, or a folder in the format of the
    `transformers` library; UserError for anything else."""
    folder = Path(path)
    if (folder / "checkpoints").is_dir():
        return RunScorer(autoregressive_run(path), path)
    if not (folder / "config.json").is_file():
        raise UserError(
            f"--scorer {path} is neither the directory of a run nor the folder of a causal language "
            "model (config.json, *.safetensors)"
        )
    from experiments.sample_metrics.transformers_scorer import load_folder

    return load_folder(path)


def autoregressive_run(path: str) -> Run:
    """The run in `path`, an autoregressive one; UserError for another."""
    run = load_run(path)
    if not isinstance(run.experiment.process, Sequential):
        name = type(run.experiment.process).__name__
        raise UserError(
            f"--scorer {path} holds process {name}, but a scorer must be Autoregressive"
        )
    return run


def _sequential(run: Run) -> Sequential:
    process = run.experiment.process
    assert isinstance(process, Sequential)  # `autoregressive_run`
    return process


def as_written(tokenizer: Tokenizer, text: str, where: str) -> np.ndarray:
    """The tokens of a text that is not changed to fit; UserError naming `where` if it does not fit."""
    try:
        return np.concatenate(list(tokenizer.without_normalizing().encode([text], where)))
    except OutsideAlphabet as error:
        raise UserError(
            f"{error.what} of the scorer", "take a scorer of the samples' alphabet"
        ) from error


def in_pieces(
    rows: Sequence[np.ndarray],
    room: int,
    batch: int,
    call: Callable[[np.ndarray], Any],
    progress: Told,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """(row, tokens in the piece, call's result for it) of every piece of at most `room` tokens. call
    takes int32 (batch, width), padded with zeros after the tokens, of one width for all."""
    pieces = [
        (i, row[k : k + room]) for i, row in enumerate(rows) for k in range(0, len(row), room)
    ]
    width = max(len(piece) for _, piece in pieces)
    for first in range(0, len(pieces), batch):
        group = pieces[first : first + batch]
        padded = np.zeros((batch, width), np.int32)
        for r, (_, piece) in enumerate(group):
            padded[r, : len(piece)] = piece
        for (i, piece), result in zip(group, np.asarray(call(padded)), strict=False):
            yield i, len(piece), result
        progress(min(first + batch, len(pieces)), len(pieces))


def run_log_p(run: Run) -> Callable[[np.ndarray], np.ndarray]:
    """log_p(tokens (B, L)) -> (B, L) nats under an autoregressive run, compiled."""
    experiment, process = run.experiment, _sequential(run)

    @jax.jit
    def log_p(params, tokens):
        return process.log_p(experiment.network(params), tokens)

    return lambda tokens: np.asarray(log_p(run.params, jnp.asarray(tokens)))


@dataclass(frozen=True)
class RunScorer(Scorer):
    """An autoregressive run."""

    run: Run
    path: str

    @property
    def experiment(self) -> Experiment:
        return self.run.experiment

    @property
    def described(self) -> dict:
        return {
            "scorer": self.path,
            "kind": "autoregressive run",
            "checkpoint_step": self.run.step,
            "checkpoint_fingerprint": self.run.fingerprint,
            "room": self.experiment.data.length,
            "first_token": "scored, after the start token",
            # The last state of a model of characters says little but what the last word was.
            "features": "mean of the last layer's states",
        }

    def tokens(self, text, where):
        return as_written(self.experiment.data.tokenizer, text, where)

    def _pieces(self, rows, call, progress):
        experiment = self.experiment
        batch = min(experiment.evaluation.batch_size, len(rows))
        return in_pieces(rows, experiment.data.length, batch, call, progress)

    def score(self, texts, progress=untold):
        rows = [self.tokens(text, "text") for text in texts]
        nats = np.zeros(len(rows))
        for i, size, log_p in self._pieces(rows, run_log_p(self.run), progress):
            nats[i] -= log_p[:size].sum(dtype=np.float64)
        sizes = np.array([len(row) for row in rows])
        return Estimate(nats[:, None], sizes, sum(map(len, texts)))

    def features(self, texts, progress=untold):
        experiment, params = self.experiment, self.run.params
        start = _sequential(self.run).start

        @jax.jit
        def features(params, z):
            z = jnp.concatenate([jnp.full_like(z[:, :1], start), z[:, :-1]], axis=1)
            try:
                network = experiment.network(params)
                return network.backbone.features(network.params, z, jnp.zeros((len(z), 1)))
            except NotImplementedError as error:
                raise UserError(f"--mauve: {error}; use a run with a Transformer") from None

        rows = [self.tokens(text, "text") for text in texts]
        points = {}
        for i, size, states in self._pieces(
            rows, lambda z: features(params, jnp.asarray(z)), progress
        ):
            points[i] = states[:size].astype(np.float32).mean(0)
        return np.stack([points[i] for i in range(len(rows))])


@dataclass(frozen=True)
class NGramScorer(Scorer):
    """Counts of the runs of `order` tokens in a training text (`experiments.evaluation.ngram`)."""

    train: np.ndarray
    tokenizer: Tokenizer
    order: int = 3

    @property
    def described(self) -> dict:
        return {"scorer": f"{self.order}-grams", "kind": "counts of the training text"}

    def tokens(self, text, where):
        return as_written(self.tokenizer, text, where)

    def score(self, texts, progress=untold):
        rows = [self.tokens(text, "text") for text in texts]
        sizes = np.array([len(row) for row in rows])
        padded = np.zeros((len(rows), max(1, *sizes)), self.train.dtype)
        for row, tokens in zip(padded, rows, strict=True):
            row[: len(tokens)] = tokens
        assert self.tokenizer.vocab_size is not None  # of a text that was read
        size = self.tokenizer.vocab_size
        nats = ngram_nats(self.train, padded.reshape(-1), padded.shape[1], self.order, size)
        inside = np.arange(padded.shape[1])[None] < sizes[:, None]
        nats = np.where(inside, nats.reshape(padded.shape), 0).sum(1)
        return Estimate(nats[:, None], sizes, sum(map(len, texts)))

    def features(self, texts, progress=untold):
        raise UserError("counts of n-grams have no hidden states", "take a run as the scorer")
