"""A distribution that can be enumerated, its exact denoiser, and with it the bound of a process and the
distribution of its samples as finite sums.

With p over all texts x0 and the process's noise q(z_t | x0), one product over positions,

    posterior      p(x0^i = v | z_t) = sum over x0 with x0^i = v of p(x0) q(z_t | x0) / p(z_t)
    bound          E_t E_q(z_t | x0) of the loss of that denoiser
    ancestral step p(z_s | z_t) = product over i of p(z_s^i | z_t)

In continuous time the bound equals -log p(x0) for every x0, or it is none; the distribution of ancestral
sampling comes to p as steps become many. `docs/tutorial/own-process.md` has the same by hand.
"""

from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.model import Model
from diffusion.process import JumpProcess


class Toy:
    """A distribution p (N,) over all texts `states`, int (N, L), of `length` tokens out of `vocab_size`,
    the first token the most significant. neg_logp: -log p (N,), and entropy, its mean, in nats."""

    def __init__(self, p: np.ndarray, vocab_size: int, length: int):
        self.p, self.vocab_size, self.length = p, vocab_size, length
        self.states = self.sequences(vocab_size)
        if p.shape != (len(self.states),) or p.min() <= 0 or abs(p.sum() - 1) > 1e-9:
            raise ValueError(
                f"p of shape {p.shape} must be {vocab_size}^{length} probabilities above 0 of sum 1"
            )
        self.neg_logp = -np.log(p)
        self.entropy = float(p @ self.neg_logp)
        self.one_hot = np.eye(vocab_size)[self.states]  # (N, L, V)
        self._log_move = jax.jit(self._log_step, static_argnums=0)  # compiled once for a process

    @classmethod
    def drawn(cls, vocab_size: int = 3, length: int = 3, seed: int = 0) -> Self:
        """A distribution drawn at random, so uneven that positions depend on each other."""
        p = np.random.default_rng(seed).dirichlet(np.full(vocab_size**length, 0.6))
        return cls(p, vocab_size, length)

    def sequences(self, size: int) -> np.ndarray:
        """Every sequence over so many values, (size^L, L)."""
        return np.indices((size,) * self.length).reshape(self.length, -1).T

    def index(self, x: Any) -> np.ndarray:
        """The number of each text x (B, L) among `states`, (B,)."""
        return np.asarray(x) @ self.vocab_size ** np.arange(self.length)[::-1]

    def all_states(self, process: JumpProcess) -> np.ndarray:
        """Every noisy state, (Z, L)."""
        return self.sequences(process.num_states)

    def log_likelihoods(self, process: JumpProcess, z: Array, t: Array) -> Array:
        """log q(z^i | x0^i) of every state z (Z, L) under every text, (Z, N, L)."""
        log_q = jnp.maximum(process.log_likelihood(z, t), -1e30)  # differences of it are numbers
        return jnp.einsum("zlv,nlv->znl", log_q, self.one_hot.astype(log_q.dtype))

    def transition(self, process: JumpProcess, z: Array, t: Array) -> Array:
        """q(z | x0) for every text and state, (N, Z)."""
        return jnp.exp(self.log_likelihoods(process, z, t).sum(-1)).T

    def log_posterior(self, process: JumpProcess, z: Array, t: Array) -> Array:
        """log p(x0 | z_t), (Z, L, V), exact."""
        log_q = self.log_likelihoods(process, z, t).sum(-1)
        # Arrays of the dtype at hand: float64 in `bound` and `ancestral`, float32 in a sampler.
        p = jax.nn.softmax(log_q - self.neg_logp.astype(log_q.dtype)[None], axis=1)
        return jnp.log(jnp.einsum("zn,nlv->zlv", p, self.one_hot.astype(log_q.dtype)))

    def denoiser(self, process: JumpProcess) -> Model:
        """model(z, t) -> out (B, L, V): the exact network, of which `predict` makes log p(x0 | z_t)."""

        def model(z, t):
            return process.invert_predict(self.log_posterior(process, z, t), z, t)

        return model

    def bound(
        self, process: JumpProcess, num_steps: int | None = None, nodes: int = 80
    ) -> np.ndarray:
        """The bound on -log p(x0) with the exact denoiser, for every text, (N,) nats, in float64.

        num_steps: T of a process on a grid of times, whose losses there are summed; None is continuous
        time, integrated at so many nodes, and ValueError for a process with terms at the ends of time,
        which are not enumerated.
        """
        with jax.enable_x64(True):
            z, model = jnp.asarray(self.all_states(process)), self.denoiser(process)
            if num_steps is None:
                self._check_ends(process, model)

            @jax.jit
            def at(t):
                t = jnp.full((len(z), 1), t)
                out, q = model(z, t), self.transition(process, z, t)

                def of(x0):
                    return process.token_loss(out, jnp.broadcast_to(x0, z.shape), z, t).sum(1)

                return (q * jnp.where(q > 0, jax.lax.map(of, jnp.asarray(self.states)), 0)).sum(1)

            times, weights = _quadrature(nodes)
            if num_steps is not None:
                times, weights = (
                    np.arange(1, num_steps + 1) / num_steps,
                    np.full(num_steps, 1 / num_steps),
                )
            return np.asarray(sum(w * at(t) for t, w in zip(times, weights, strict=True)))

    def _check_ends(self, process, model) -> None:
        x0, u = jnp.asarray(self.states), jnp.full((len(self.states), 1), 0.5)
        terms = jax.eval_shape(
            lambda key: process.bound_terms(key, model, x0, u), jax.random.key(0)
        )
        if set(terms) != {"diffusion"}:
            raise ValueError(
                f"the bound of {type(process).__name__} has terms at the ends of time, "
                f"{', '.join(sorted(set(terms) - {'diffusion'}))}; take a schedule with exact ends"
            )

    def ancestral(self, process: JumpProcess, times: Any) -> np.ndarray:
        """The distribution of ancestral sampling with the exact denoiser over the texts, (N,), by
        enumeration of all states. times: from 1 to 0, such as np.linspace(1, 0, steps + 1)."""
        with jax.enable_x64(True):
            z = jnp.asarray(self.all_states(process))
            start = jnp.exp(process.log_likelihood(z, jnp.ones((len(z), 1)))).mean(-1).prod(-1)
            found = start / start.sum()
            times = np.asarray(times, float)
            for k in range(len(times) - 1):
                # From states that cannot be, nothing goes on: their posterior is 0 / 0.
                step = jnp.where(
                    found[:, None] > 0, jnp.exp(self._log_move(process, times[k], times[k + 1])), 0
                )
                found = found @ step
        clean = (np.asarray(z) < self.vocab_size).all(1)
        return np.asarray(found)[clean]

    def _log_step(self, process, now, then):
        """log p(z_s | z_t) of whole states, (Z, Z)."""
        z = jnp.asarray(self.all_states(process))
        t, s = (jnp.full((len(z), 1), time) for time in (now, then))
        log_p = process.log_posterior(self.log_posterior(process, z, t), z, t, s)
        return sum(log_p[:, i][:, z[:, i]] for i in range(self.length))


def _quadrature(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """(times, weights) for integrals over (0, 1): the trapezoidal rule in logit t, up to 1e-13 from both
    ends. Noise hides what is as rare as p at t about p: the integrand has a step there, whatever p."""
    logit, step = np.linspace(-30, 30, nodes, retstep=True)
    times = 1 / (1 + np.exp(-logit))
    return times, step * times * (1 - times)
