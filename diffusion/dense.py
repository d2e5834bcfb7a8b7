"""Kernels that are S x S matrices: discretised Gaussian, band, nearest neighbour, any of the user's.

Row convention, Q[i, j] = q(z_k = j | z_(k-1) = i). A kernel gives the T one-step matrices of a schedule
beta_1..beta_T, in float64; `diffusion.chains.DenseChain` keeps them and their products. For vocabularies
of up to some hundred tokens; `Absorbing` and `Uniform` need no matrices. Source: appendix A of D3PM
(arXiv 2107.03006).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import numpy as np

from diffusion.kernels import ExponentKernel, entropy

LARGEST = 2**25  # entries of T matrices: 128 MiB in float32, twice (steps and products)


class MatrixKernel(ABC):
    """A kernel of S x S matrices, one a step."""

    def num_states(self, vocab_size: int) -> int:
        """S: V, and the mask where there is one."""
        return vocab_size

    @abstractmethod
    def steps(self, betas: np.ndarray, vocab_size: int) -> np.ndarray:
        """(T, S, S) one-step matrices, float64, of beta_1..beta_T."""

    @property
    def complete(self) -> bool:
        """Whether nothing is left to be filled in from the data."""
        return True


@dataclass(frozen=True)
class Gaussian(MatrixKernel):
    """Discretised Gaussian of variance beta over the order of the tokens, doubly stochastic.

    Q[i, j] = exp(-4 |i-j|^2 / ((V-1)^2 beta)) / sum_n exp(-4 n^2 / ((V-1)^2 beta)) for i != j, n from
    -(V-1) to V-1 (or |n|, |i-j| <= band), the diagonal what is left. For ordered tokens such as pixels.

    band: the greatest distance that a token moves in one step; None is any.
    """

    band: int | None = None

    def __post_init__(self):
        if self.band is not None and self.band < 1:
            raise ValueError(f"Gaussian.band = {self.band} must be at least 1, or None")

    def steps(self, betas: np.ndarray, vocab_size: int) -> np.ndarray:
        V = vocab_size
        n = np.arange(-(V - 1), V)
        with np.errstate(divide="ignore", invalid="ignore"):
            log_w = -4.0 * n**2 / (max(V - 1, 1) ** 2 * betas[:, None])
        log_w[:, V - 1] = 0  # also for beta = 0
        if self.band is not None:
            log_w[:, np.abs(n) > self.band] = -np.inf
        w = np.exp(log_w)
        w /= w.sum(1, keepdims=True)
        i = np.arange(V)
        return _close(w[:, i[None] - i[:, None] + V - 1])


@dataclass(frozen=True)
class BandDiagonal(MatrixKernel):
    """beta / V to each of the tokens at distance 1 to width, the diagonal what is left.

    width: the greatest distance that a token moves in one step.
    """

    width: int = 5

    def __post_init__(self):
        if self.width < 1:
            raise ValueError(f"BandDiagonal.width = {self.width} must be at least 1")

    def steps(self, betas: np.ndarray, vocab_size: int) -> np.ndarray:
        i = np.arange(vocab_size)
        band = np.abs(i[:, None] - i[None]) <= self.width
        return _close(betas[:, None, None] * band / vocab_size)


@dataclass(frozen=True)
class NearestNeighbour(MatrixKernel, ExponentKernel):
    """exp(beta R): tokens move to their nearest neighbours in an embedding space.

    A[i, j] = 1 for the k nearest neighbours j of i, G = (A + A^T) / 2k, R = G - diag(row sums of G):
    symmetric, so the stationary distribution is uniform.

    neighbours: k. embeddings: one row per token; None means: what stands left and right of a token in
    the training data (positive pointwise mutual information), filled in when the data is read; on the
    command line also the path of a .npy file.
    """

    neighbours: int = 5
    embeddings: tuple[tuple[float, ...], ...] | str | None = field(default=None, repr=False)

    def __post_init__(self):
        if self.neighbours < 1:
            raise ValueError(f"NearestNeighbour.neighbours = {self.neighbours} must be at least 1")

    def steps(self, betas: np.ndarray, vocab_size: int) -> np.ndarray:
        values, vectors = np.linalg.eigh(self.rates(vocab_size))
        spectrum = np.exp(np.minimum(values, 0) * betas[:, None])
        return np.maximum((vectors * spectrum[:, None]) @ vectors.T, 0)

    @property
    def complete(self) -> bool:
        return isinstance(self.embeddings, tuple)

    def information_removal(self, exponent: np.ndarray, p: np.ndarray) -> np.ndarray:
        rows = self.steps(exponent, len(p))
        return 1 - (entropy(p @ rows) - entropy(rows) @ p) / entropy(p)

    def betas_of(self, increments: np.ndarray) -> np.ndarray:
        return increments

    def rates(self, vocab_size: int) -> np.ndarray:
        """(V, V): R, symmetric, rows sum to zero."""
        x = np.array(self.embeddings, np.float64)
        if x.ndim != 2 or len(x) != vocab_size or not np.isfinite(x).all():
            raise ValueError(
                f"NearestNeighbour.embeddings of shape {x.shape} must be one row of finite numbers for "
                f"each of the {vocab_size} tokens"
            )
        k = self.neighbours
        if k >= vocab_size:
            raise ValueError(
                f"NearestNeighbour.neighbours = {k} must be below the {vocab_size} tokens of the data"
            )
        x = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
        squares = (x**2).sum(1)
        distance = squares[:, None] + squares[None] - 2 * x @ x.T
        np.fill_diagonal(distance, np.inf)
        nearest = np.argsort(distance, axis=1, kind="stable")[:, :k]
        adjacent = np.zeros((vocab_size, vocab_size))
        np.put_along_axis(adjacent, nearest, 1.0, axis=1)
        graph = (adjacent + adjacent.T) / (2 * k)
        return graph - np.diag(graph.sum(1))


@dataclass(frozen=True)
class Matrix(MatrixKernel):
    """(1 - beta) I + beta P for a stochastic matrix P of the user's: rows sum to one.

    matrix: P, V x V, or (V + 1) x (V + 1) with the mask last; as nested tuples, on the command line also
    the path of a .npy file.
    """

    matrix: tuple[tuple[float, ...], ...] | str = field(default="", repr=False)

    def __post_init__(self):
        if isinstance(self.matrix, str):
            return  # a file, read when the experiment is resolved
        P = np.array(self.matrix, np.float64)
        if P.ndim != 2 or P.shape[0] != P.shape[1]:
            raise ValueError(f"Matrix.matrix of shape {P.shape} must be square, S x S")
        if not (np.isfinite(P).all() and (P >= 0).all()):
            raise ValueError(
                "Matrix.matrix must hold probabilities; an entry is negative or not finite"
            )
        sums = P.sum(1)
        worst = int(np.argmax(np.abs(sums - 1)))
        if abs(sums[worst] - 1) > 1e-6:
            raise ValueError(
                f"Matrix.matrix: row {worst} sums to {sums[worst]:.6g}, not to 1; entry [i, j] is the "
                "probability of going from i to j (transpose it if your columns sum to one)"
            )

    @property
    def complete(self) -> bool:
        return not isinstance(self.matrix, str)

    def num_states(self, vocab_size: int) -> int:
        S = len(self.matrix)
        if S not in (vocab_size, vocab_size + 1):
            raise ValueError(
                f"Matrix.matrix is {S} x {S}, but the data has {vocab_size} tokens; give {vocab_size} "
                f"rows, or {vocab_size + 1} with a mask as the last"
            )
        return S

    def steps(self, betas: np.ndarray, vocab_size: int) -> np.ndarray:
        P = np.array(self.matrix, np.float64)
        P /= P.sum(1, keepdims=True)
        return (1 - betas)[:, None, None] * np.eye(len(P)) + betas[:, None, None] * P


@dataclass(frozen=True)
class Masked(MatrixKernel):
    """Another kernel mixed with the absorbing one, beta_k = 1 / (T - k + 1): all ends masked.

    base: the other kernel.
    """

    base: Gaussian | BandDiagonal | NearestNeighbour = NearestNeighbour()

    def num_states(self, vocab_size: int) -> int:
        return vocab_size + 1

    @property
    def complete(self) -> bool:
        return self.base.complete

    def steps(self, betas: np.ndarray, vocab_size: int) -> np.ndarray:
        V, T = vocab_size, len(betas)
        mask = 1 / (T - np.arange(T))
        Q = np.zeros((T, V + 1, V + 1))
        Q[:, :V, :V] = (1 - mask)[:, None, None] * self.base.steps(betas, V)
        Q[:, :V, V] = mask[:, None]
        Q[:, V, V] = 1
        return Q


def check_size(kernel: MatrixKernel, num_states: int, num_steps: int) -> None:
    """ValueError where the T matrices of a kernel would not fit in memory."""
    if num_steps * num_states**2 > LARGEST:
        name, most = type(kernel).__name__, int((LARGEST / num_steps) ** 0.5)
        raise ValueError(
            f"{name} keeps num_steps = {num_steps} matrices of {num_states} x {num_states} states, "
            f"which is too large for a dense kernel (at most {most} states at this num_steps); "
            "Absorbing and Uniform work for any vocabulary"
        )


def check_ergodic(kernel: MatrixKernel, total: np.ndarray) -> None:
    """ValueError where `total` (S, S) leaves no state that all others can reach: no stationary
    distribution."""
    reach = (total > 0) | np.eye(len(total), dtype=bool)
    for _ in range(int(np.ceil(np.log2(len(reach)))) + 1):
        reach = (reach.astype(np.float32) @ reach.astype(np.float32)) > 0
    if not reach.all(0).any():
        apart = int(np.argmin(reach[0]))
        raise ValueError(
            f"{type(kernel).__name__} is not ergodic and has no absorbing state: token {apart} "
            "cannot be reached from token 0, so there is no noise to start sampling from; connect "
            "the states (more neighbours, a wider band), or mix with the mask: Masked(kernel)"
        )


def _close(Q: np.ndarray) -> np.ndarray:
    """Q (T, S, S) with each diagonal entry set to what its row leaves."""
    i = np.arange(Q.shape[1])
    Q[:, i, i] = 0
    Q[:, i, i] = 1 - Q.sum(2)
    return Q
