"""Texts of a hidden Markov chain: data of any length whose likelihood and exact denoiser are sums that
forward-backward makes, so that a sampler can be measured against the truth (arXiv 2602.19619).

A chain of states h_1 .. h_L draws a token at each position. Noise is independent from position to
position, so a noisy text z_t is one of the same chain, with the evidence

    e_i(h) = sum over v of p(v | h) q(z_t^i | x0^i = v)

in place of a token. With a_i(h) the distribution of h_i given what is left of i, and b_i(h) the evidence
of what is right of it,

    p(x0^i = v | z_t) is proportional to q(z_t^i | v) sum over h of p(v | h) a_i(h) b_i(h).

`diffusion.toy.Toy` enumerates instead: any distribution, of a few tokens.
"""

from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.model import Model
from diffusion.process import Process


class HiddenMarkov:
    """A distribution of texts of `length` tokens. first (H,): of the first state; moves (H, H): of the
    next, a row for each state; emits (H, V): of its token. All are probabilities."""

    def __init__(self, first: np.ndarray, moves: np.ndarray, emits: np.ndarray, length: int):
        for name, rows in (("first", first), ("moves", moves), ("emits", emits)):
            if rows.min() < 0 or np.abs(rows.sum(-1) - 1).max() > 1e-6:
                raise ValueError(f"{name} must be probabilities, of sum 1 in each row")
        if not first.shape == moves.shape[:1] == moves.shape[1:] == emits.shape[:1]:
            raise ValueError(
                f"first {first.shape}, moves {moves.shape} and emits {emits.shape} must have one size "
                "for the states"
            )
        if length < 1:
            raise ValueError(f"length = {length} must be at least 1")
        self.first, self.moves, self.emits, self.length = first, moves, emits, length
        self.vocab_size = emits.shape[1]

    @classmethod
    def drawn(cls, vocab_size: int = 4, length: int = 64, states: int = 8, seed: int = 0) -> Self:
        """Probabilities drawn at random: states mostly follow each other in a circle, and each has a
        favourite token, so that tokens tell much of each other, also at a distance."""
        rng = np.random.default_rng(seed)
        order, circle = rng.permutation(states), np.zeros((states, states))
        circle[order, np.roll(order, 1)] = 1
        moves = 0.9 * circle + 0.1 * rng.dirichlet(np.ones(states), states)
        emits = rng.dirichlet(np.ones(vocab_size), states)
        emits = 0.1 * emits + 0.9 * np.eye(vocab_size)[rng.integers(0, vocab_size, states)]
        return cls(np.full(states, 1 / states), moves, emits, length)

    def sample(self, key: Array, rows: int) -> Array:
        """Texts of the distribution, int32 (rows, L)."""
        log_first, log_moves, log_emits = (jnp.log(p) for p in self._arrays())

        def draw(key):
            def step(logits, key):
                key_state, key_token = jax.random.split(key)
                state = jax.random.categorical(key_state, logits)
                return log_moves[state], jax.random.categorical(key_token, log_emits[state])

            return jax.lax.scan(step, log_first, jax.random.split(key, self.length))[1]

        return jax.vmap(draw)(jax.random.split(key, rows)).astype(jnp.int32)

    def log_p(self, x: Array) -> Array:
        """log p(x), (B,) nats, of texts x (B, L) of tokens below V."""
        if x.ndim != 2 or x.shape[1] != self.length:
            raise ValueError(f"texts of shape {x.shape} must be (B, {self.length})")
        return self._forward(self._arrays()[2].T[x])[1]

    def log_posterior(self, process: Process, z: Array, t: Array) -> Array:
        """log p(x0 | z_t), (B, L, V), exact; -inf for what cannot be."""
        _, moves, emits = self._arrays()
        log_q = process.log_likelihood(z, t)
        q = jnp.exp(log_q - log_q.max(-1, keepdims=True))
        evidence = q @ emits.T
        before, _ = self._forward(evidence)

        def back(after, now):
            return _normalized((now * after) @ moves.T)[0], after

        ones = jnp.ones_like(evidence[:, 0])
        _, after = jax.lax.scan(back, ones, jnp.moveaxis(evidence, 1, 0), reverse=True)
        p = q * ((before * jnp.moveaxis(after, 0, 1)) @ emits)
        return jnp.log(_normalized(p)[0])

    def denoiser(self, process: Process) -> Model:
        """model(z, t) -> out (B, L, V): the exact network, of which `predict` makes log p(x0 | z_t)."""
        if not isinstance(process, Process) or process.num_tokens != self.vocab_size:
            raise ValueError(
                f"{process} is not a process with noisy states of {self.vocab_size} tokens, such as "
                f"MDLM({self.vocab_size})"
            )

        def model(z, t):
            return process.invert_predict(self.log_posterior(process, z, t), z, t)

        return model

    def pairs(self, lag: int) -> np.ndarray:
        """The probability of two tokens `lag` positions apart, (V, V), the mean over their places."""
        if not 1 <= lag < self.length:
            raise ValueError(f"lag = {lag} must be from 1 to {self.length - 1}")
        state, found = self.first, np.zeros((self.vocab_size, self.vocab_size))
        later = np.linalg.matrix_power(self.moves, lag)
        for _ in range(self.length - lag):
            found = found + self.emits.T @ (state[:, None] * later) @ self.emits
            state = state @ self.moves
        return found / (self.length - lag)

    def _arrays(self) -> tuple[Array, Array, Array]:
        return jnp.asarray(self.first), jnp.asarray(self.moves), jnp.asarray(self.emits)

    def _forward(self, evidence: Array) -> tuple[Array, Array]:
        """(the distribution of the states given what is left of them, (B, L, H), log of the evidence of
        the whole, (B,)) of the evidence (B, L, H)."""
        first, moves, _ = self._arrays()

        def step(before, now):
            state, scale = _normalized(before * now)
            return state @ moves, (before, jnp.log(scale[:, 0]))

        start = jnp.broadcast_to(first, evidence[:, 0].shape)
        _, (before, logs) = jax.lax.scan(step, start, jnp.moveaxis(evidence, 1, 0))
        return jnp.moveaxis(before, 0, 1), logs.sum(0)


def _normalized(p: Array) -> tuple[Array, Array]:
    """(p of sum 1 over the last axis, the sum (..., 1))."""
    scale = p.sum(-1, keepdims=True)
    return p / scale, scale
