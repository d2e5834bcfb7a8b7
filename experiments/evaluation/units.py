"""From nats per sequence to what is reported: the one place of bits, perplexity, standard errors."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

CHARACTERS = "bits per character"  # the usual unit of a record


@dataclass(frozen=True)
class Estimate:
    """A Monte Carlo estimate of the bound over a corpus.

    nats: (N, K), one value per sequence and time sample, summed over positions; tokens: (N,).
    characters: those of the text. not_text: of tokens that are bytes, how many are in no character.
    """

    nats: np.ndarray
    tokens: np.ndarray
    characters: int
    not_text: int | None = None

    @property
    def unit(self) -> str:
        """What the bits are per: characters, unless the text has none, or is not all text."""
        if self.characters and not self.not_text:
            return CHARACTERS
        return "bits per token" if self.not_text is None else "bits per byte"

    @property
    def bits(self) -> float:
        """Bits per `unit`."""
        return self.to_bits(self.nats_per_token)

    def to_bits(self, nats_per_token: float) -> float:
        """The same in bits per `unit`."""
        if self.unit == CHARACTERS:
            return self.to_bits_per_character(nats_per_token)
        return nats_per_token / math.log(2)

    @property
    def nats_per_token(self) -> float:
        """Nats per token, the mean over time samples and tokens."""
        return float(self.nats.mean(1).sum() / self.tokens.sum())

    @property
    def bits_per_character(self) -> float:
        """Bits per character; NaN where the text has none."""
        return self.to_bits_per_character(self.nats_per_token)

    def standard_error(self) -> float:
        """Nats per token: the spread between sequences, which contains that of the time samples.

        Sequences are taken as independent draws of the source of the text.
        """
        per_token = self.nats.mean(1) - self.nats_per_token * self.tokens
        n = len(per_token)
        if n < 2:
            return math.nan
        return float(math.sqrt(n / (n - 1) * (per_token**2).sum()) / self.tokens.sum())

    def time_standard_error(self) -> float:
        """Nats per token: what the time samples alone add for this very text.

        From the variance within sequences as if times were independent; they are stratified, so this
        is on the large side.
        """
        k = self.nats.shape[1]
        if k < 2:
            return math.nan
        return float(math.sqrt((self.nats.var(1, ddof=1) / k).sum()) / self.tokens.sum())

    def to_bits_per_character(self, nats_per_token: float) -> float:
        """The same in bits per character; NaN where the text has none."""
        return bits_per_character(nats_per_token, int(self.tokens.sum()), self.characters)


@dataclass(frozen=True)
class WeightedMean(Estimate):
    """The mean of the estimates of several texts, `parts`, by `weights` that sum to 1: of the nats of a
    token, and of how many characters a token is. Its sequences and counts are those of all."""

    parts: tuple[Estimate, ...] = ()
    weights: tuple[float, ...] = ()

    def _mean(self, values: Iterable[float]) -> float:
        return float(np.dot(self.weights, list(values)))

    @property
    def nats_per_token(self):
        return self._mean(part.nats_per_token for part in self.parts)

    def standard_error(self):
        return self._error(part.standard_error() for part in self.parts)

    def time_standard_error(self):
        return self._error(part.time_standard_error() for part in self.parts)

    def _error(self, errors: Iterable[float]) -> float:
        return float(np.linalg.norm(np.array(self.weights) * list(errors)))

    def to_bits_per_character(self, nats_per_token):
        rate = self._mean(part.characters / part.tokens.sum() for part in self.parts)
        return nats_per_token / math.log(2) / rate if rate else math.nan


def weighted_mean(parts: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The mean over texts; of one text itself."""
    if len(parts) == 1:
        return parts[0]
    not_text = [part.not_text for part in parts if part.not_text is not None]
    return WeightedMean(
        np.concatenate([part.nats for part in parts]),
        np.concatenate([part.tokens for part in parts]),
        sum(part.characters for part in parts),
        sum(not_text) if not_text else None,
        tuple(parts),
        tuple(weights),
    )


def bits_per_character(nats_per_token: float, tokens: int, characters: int) -> float:
    """Bits per character of text in which `tokens` tokens spell `characters` characters; NaN of none."""
    return float(nats_per_token * tokens / math.log(2) / characters) if characters else math.nan


def perplexity(nats: float, standard_error: float | None) -> tuple[float | None, float | None]:
    """exp(nats) and its standard error; None where no float holds it, or the error is unknown."""
    try:
        value = math.exp(nats)
    except OverflowError:
        return None, None
    error = None if standard_error is None else value * standard_error
    return value, error if error is not None and math.isfinite(error) else None
