"""Samples that match a pattern: every draw of x0 is one that a finite automaton accepts.

A network gives a distribution of each token, p_i(x0^i | z_t), and a sampler draws them apart from each
other. Here they are drawn together, from the same product of distributions given that the automaton
accepts the whole text:

    beta_L(s) = [s accepts],    beta_i(s) = sum_v p_i(v) beta_(i+1)(next(s, v))      from right to left
    x0^i = v with probability p_i(v) beta_(i+1)(next(s_i, v)) / beta_i(s_i)          from left to right

which is exact for each draw (forward-backward over a hidden Markov chain whose states are the
automaton's; DINGO, arXiv 2505.23061, takes the most probable text by the same recursion). What a masked
process reveals is part of an accepted text, so there is one that fits at every step, and the last x0 is
accepted for certain. The samples are not those of the model given that its text matches: a step knows
what the network says of each token, not what later steps will make of it.

A sampler from left to right knows nothing of what comes later, beyond a token or a block: there the last
beta is 1 for every state from which an accepted text can still be reached.

The sum costs S C numbers a position and row, for S states and C classes of tokens that move every state
alike.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from diffusion.model import Model
from diffusion.random import categorical, split

# log of what a token counts that a logits processor has cut, beside one that is left
_UNLIKELY = -1e4


@dataclass(frozen=True, eq=False)
class Automaton:
    """A deterministic automaton over the tokens of a sample.

    moves: int (S, C), the next state by state and class of token, -1 where there is none. classes: int
    (V,), the class of each token. viable: bool (L + 1, S), from which states an accepted text can still
    be reached before each position, and after the last. first: the position that it begins at, in state
    0; those before it may hold anything.
    """

    moves: np.ndarray
    classes: np.ndarray
    viable: np.ndarray
    first: int = 0

    @classmethod
    def over(
        cls, moves: np.ndarray, accepts: np.ndarray, allowed: np.ndarray, first: int = 0
    ) -> "Automaton":
        """That of moves by token, int (S, V), which accepts texts that end in a state of `accepts`, bool
        (S,), and have allowed tokens, bool (L, V), at all positions."""
        kinds, classes = np.unique(moves, axis=1, return_inverse=True)
        classes = classes.reshape(-1)
        viable = np.ones((len(allowed) + 1, len(kinds)), bool)
        viable[-1] = accepts
        for place in range(len(allowed) - 1, first - 1, -1):
            may = kinds[:, np.unique(classes[allowed[place]])]
            viable[place] = np.any((may >= 0) & viable[place + 1][may], axis=1)
        return cls(kinds, classes, viable, first)

    @property
    def is_possible(self) -> bool:
        """Whether it accepts any text."""
        return bool(self.viable[self.first, 0])

    def draw(
        self, key: Array, log_p: Array, state: Array, first: int | Array = 0
    ) -> tuple[Array, Array]:
        """Tokens (B, n) of the positions from `first` on, drawn from log_p (B, n, V) given that what
        comes before them led to `state` (B,) and an accepted text can still be reached after them; and
        the state after them, (B,). Any tokens where none that fit have a probability, or beyond the
        text."""
        bound, moves = self._bound(first, log_p.shape[1]), self._moves()
        classes, by_position = jnp.asarray(self.classes), jnp.moveaxis(log_p, 1, 0)

        def backward(beta, position):
            log_p, bound = position
            log_mass = _of_classes(log_p, classes, moves.shape[1])
            reached = jax.nn.logsumexp(log_mass[:, None] + beta[:, moves], axis=-1)
            return jnp.where(bound, reached, beta), beta

        def forward(state, position):
            key, log_p, beta, bound = position
            follows = jnp.take_along_axis(beta, moves[state], axis=1)[:, classes]
            weights = log_p + jnp.where(bound, follows, 0)
            x = categorical(key, weights[:, None])[:, 0]
            return jnp.where(bound, moves[state, classes[x]], state), x

        viable = jnp.asarray(np.pad(self.viable, ((0, 0), (0, 1))))
        viable = viable[jnp.minimum(first + log_p.shape[1], len(viable) - 1)]
        goal = jnp.where(viable, 0, -jnp.inf).astype(log_p.dtype)
        goal = jnp.broadcast_to(goal[None], (len(log_p), len(moves)))
        _, betas = jax.lax.scan(backward, goal, (by_position, bound), reverse=True)
        keys = split(key, len(bound))
        state, x = jax.lax.scan(forward, state, (keys, by_position, betas, bound))
        return jnp.moveaxis(x, 0, 1), state

    def after(self, x: Array, state: Array, first: int | Array) -> Array:
        """The state (B,) after tokens x (B, n) of the positions from `first` on, from `state` on."""
        moves, classes = self._moves(), jnp.asarray(self.classes)

        def walk(state, position):
            x, bound = position
            return jnp.where(bound, moves[state, classes[x]], state), None

        return jax.lax.scan(walk, state, (x.T, self._bound(first, x.shape[1])))[0]

    def _bound(self, first: int | Array, count: int) -> Array:
        """Which of `count` positions from `first` on are moved by, (count,)."""
        places = first + jnp.arange(count)
        return (places >= self.first) & (places < len(self.viable) - 1)

    def _moves(self) -> Array:
        """(S + 1, C): the last state is none, which nothing leaves."""
        moves = np.where(self.moves < 0, len(self.moves), self.moves)
        return jnp.asarray(np.pad(moves, ((0, 1), (0, 0)), constant_values=len(self.moves)))


def _of_classes(log_p: Array, classes: Array, count: int) -> Array:
    """log of the mass of each class of tokens, (B, C), of log_p (B, V)."""
    empty = jnp.full((len(log_p), count), -jnp.inf, log_p.dtype)
    # The largest of each class: one class may be beyond the exponents of another.
    top = empty.at[:, classes].max(log_p)
    top = jnp.where(jnp.isneginf(top), 0, top)
    p = jnp.exp(log_p - top[:, classes])
    return jnp.log(jnp.zeros_like(empty).at[:, classes].add(p)) + top


def with_last_resort(log_p0: Array, before: Array) -> Array:
    """log_p0 (B, L, V), which a logits processor made of `before`, with what it cut so unlikely that
    it is drawn only as far as no text of the rest is accepted."""
    return jnp.maximum(log_p0, before + _UNLIKELY)


@dataclass(frozen=True)
class Constrained:
    """A model whose draws of x0 the automaton accepts (`diffusion.model.JointModel`).

    model: the network. automaton: what accepts a text. state: int (B,), that of each row before the
    position `first`, where what is drawn begins; None is 0, where texts begin. first: that position.
    """

    model: Model
    automaton: Automaton
    state: Array | None = None
    first: int | Array = 0

    def __call__(self, z: Array, t: Array, **condition: Array) -> Array:
        """out (B, L, V): what the network puts out."""
        return self.model(z, t, **condition)

    def tokens(self, key: Array, log_p0: Array, before: Array) -> Array:
        """x0 (B, L), drawn from log_p0 (B, L, V) given that it is accepted; before: as
        `with_last_resort` has it."""
        state = jnp.zeros(len(log_p0), jnp.int32) if self.state is None else self.state
        log_p = with_last_resort(log_p0, before)
        return self.automaton.draw(key, log_p, state, self.first)[0]

    def saying(self, out: Array) -> "Constrained":
        """The same with a network that puts out `out`."""
        return replace(self, model=lambda z, t: out)


def apart(model: Model) -> tuple[Any, Automaton | None]:
    """(network, automaton) of a model, None where nothing constrains it."""
    return (model.model, model.automaton) if isinstance(model, Constrained) else (model, None)
