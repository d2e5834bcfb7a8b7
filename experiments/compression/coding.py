"""Text as bits by a model's own distributions, and back: what a likelihood promises, done.

Both sides go through the same sequences in the same order, ask the same compiled network for the
distribution of the next tokens, and give it to an entropy coder. So the bits are as many as -log2 p
summed over the tokens, up to what the coder rounds. The order is

    masked processes   a random one for each sequence, `group` tokens a call, each by its distribution
                       given what was coded before: the any-order likelihood (diffusion/any_order.py)
                       of just these orders. A larger group takes fewer calls and more bits
    Autoregressive     from left to right, with the cache of its sampler

Between two calls of the network stands the coder, on the host: a decoder has to know the tokens of one
call before the next, so the loop over calls is in Python, one compiled call for all rows at a time.
`rows` sequences are coded side by side. The last one, where it is shorter, stands before masks that are
never revealed.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.process import Process, Sequential, denoising_process, mask_schedule
from diffusion.schedules import time_of
from experiments.errors import UserError
from experiments.run import Run


class Distributions(ABC):
    """The distributions by which `rows` sequences of `length` tokens are coded in `calls` calls."""

    rows: int
    length: int
    calls: int

    @abstractmethod
    def begin(self, first: int) -> None:
        """Nothing; what follows is of the sequences from number `first` on."""

    @abstractmethod
    def positions(self, number: int) -> np.ndarray:
        """The positions (rows, n) of call `number`; the length of a sequence stands for none."""

    @abstractmethod
    def distribution(self, number: int) -> np.ndarray:
        """Their probabilities, float32 (rows, n, V)."""

    @abstractmethod
    def tell(self, number: int, tokens: np.ndarray, real: np.ndarray) -> None:
        """Nothing; takes the tokens (rows, n) that stand there, where `real`."""


class _AnyOrder(Distributions):
    """The distributions of a masked process, batch by batch."""

    def __init__(self, run: Run, rows: int, group: int, seed: int):
        self.run, self.rows, self.group, self.seed = run, rows, group, seed
        self.length = run.experiment.data.length
        self.calls = -(-self.length // group)

        def distribution(params, z, at):
            process = denoising_process(run.experiment.bind(params))
            masked = (z == process.vocab_size).mean(1, keepdims=True)
            t = time_of(mask_schedule(process), jnp.log(masked))
            out = run.experiment.network(params)(z, t)
            out = jnp.take_along_axis(out, at[..., None], axis=1)
            state = jnp.take_along_axis(z, at, axis=1)
            return jnp.exp(process.predict(out, state, t))

        self._distribution = jax.jit(distribution)

    def begin(self, first):
        mask = self.run.experiment.process.num_tokens
        self.z = np.full((self.rows, self.length), mask, np.int32)
        # Raw bits of PCG64, the only stream that numpy promises never to change.
        bits = [
            np.random.PCG64([self.seed, first + row]).random_raw(self.length)
            for row in range(self.rows)
        ]
        order = np.argsort(bits, axis=1, kind="stable")
        padding = self.calls * self.group - self.length
        self.order = np.pad(order, ((0, 0), (0, padding)), constant_values=self.length)

    def positions(self, number):
        return self.order[:, number * self.group : (number + 1) * self.group]

    def distribution(self, number):
        at = np.minimum(self.positions(number), self.length - 1)
        return np.asarray(self._distribution(self.run.params, self.z, at))

    def tell(self, number, tokens, real):
        row, column = np.nonzero(real)
        self.z[row, self.positions(number)[row, column]] = tokens[real]


class _LeftToRight(Distributions):
    """The distributions of an autoregressive model."""

    def __init__(self, run: Run, rows: int):
        self.run, self.rows = run, rows
        self.length = self.calls = run.experiment.data.length
        process = run.experiment.process
        assert isinstance(process, Sequential)  # `make_distributions`
        self.start = process.start
        self._cache = jax.jit(lambda p: run.experiment.network(p).cache(rows, self.length))

        def distribution(params, previous, cache, number):
            t = jnp.zeros((rows, 1))
            out, cache = run.experiment.network(params).decode(previous, t, cache, number)
            return jax.nn.softmax(out), cache

        self._distribution = jax.jit(distribution, donate_argnums=2)

    def begin(self, first):
        self.cache = self._cache(self.run.params)
        self.previous = np.full((self.rows, 1), self.start, np.int32)

    def positions(self, number):
        return np.full((self.rows, 1), number)

    def distribution(self, number):
        p, self.cache = self._distribution(
            self.run.params, self.previous, self.cache, np.int32(number)
        )
        return np.asarray(p)

    def tell(self, number, tokens, real):
        self.previous = tokens


def make_distributions(run: Run, rows: int, group: int, seed: int) -> Distributions:
    """The distributions by which text is coded; UserError for a process that gives none."""
    process = run.experiment.process
    if isinstance(process, Process) and process.masked_schedule is not None:
        if group > run.experiment.data.length:
            raise UserError(
                f"group {group} is more than the {run.experiment.data.length} tokens of a sequence"
            )
        return _AnyOrder(run, rows, group, seed)
    if isinstance(process, Sequential):
        if group > 1:
            raise UserError(f"group {group}: {type(process).__name__} codes one token per call")
        return _LeftToRight(run, rows)
    raise UserError(
        f"{type(process).__name__} has no distribution of a token given known ones; compress with "
        "a masked process in continuous time, such as MDLM, or with Autoregressive"
    )


Visit = Callable[[np.ndarray, np.ndarray], np.ndarray]


def visit_all(
    distributions: Distributions, count: int, visit: Visit, progress: Callable[[int, int], None]
) -> None:
    """Calls visit(which of the `count` tokens (n,), their probabilities (n, V)) for all of them, in the
    order of coding; it returns those tokens."""
    sequences = -(-count // distributions.length)
    for first in range(0, sequences, distributions.rows):
        distributions.begin(first)
        start = (first + np.arange(distributions.rows)[:, None]) * distributions.length
        for number in range(distributions.calls):
            at = distributions.positions(number)
            real = (at < distributions.length) & (start + at < count)
            tokens = np.zeros(at.shape, np.int32)
            if real.any():
                tokens[real] = visit((start + at)[real], distributions.distribution(number)[real])
            distributions.tell(number, tokens, real)
            done = distributions.rows * (number + 1) // distributions.calls
            progress(min(first + done, sequences), sequences)


def encode(
    distributions: Distributions, tokens: np.ndarray, progress: Callable[[int, int], None]
) -> tuple[np.ndarray, float]:
    """(words, uint32, and the code length that the distributions promise, in bits) of the tokens
    (N,)."""
    coder, family = _stream().queue.RangeEncoder(), _family()
    nats = 0.0

    def visit(which, p):
        nonlocal nats
        chosen = tokens[which].astype(np.int32)
        coder.encode(chosen, family, p)
        # What a distribution rules out is coded all the same, by the least that the coder knows.
        promised = np.maximum(p[np.arange(len(p)), chosen].astype(np.float64), 2.0**-24)
        nats -= np.log(promised).sum()
        return chosen

    visit_all(distributions, len(tokens), visit, progress)
    return coder.get_compressed(), float(nats / np.log(2))


def decode(
    distributions: Distributions,
    words: np.ndarray,
    count: int,
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """The `count` tokens, int32, that `encode` made the words of; UserError for words of none."""
    coder, family = _stream().queue.RangeDecoder(words), _family()
    tokens = np.zeros(count, np.int32)

    def visit(which, p):
        try:
            tokens[which] = coder.decode(family, p)
        except AssertionError as error:  # constriction's, of words that no coder writes
            raise UserError("the coded text is damaged; use another copy of the file") from error
        return tokens[which]

    visit_all(distributions, count, visit, progress)
    return tokens


def _family() -> Any:
    return _stream().model.Categorical(perfect=False)


def _stream() -> Any:
    """The entropy coders of the library and the distributions that they take."""
    import constriction

    return constriction.stream  # pyright: ignore[reportAttributeAccessIssue]  # as it is no Python
