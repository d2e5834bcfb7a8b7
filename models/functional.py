"""The boundary between Flax and the rest: a module as two pure functions over a nested dict.

Outside `models/` nobody sees a Flax object: `jax.jit`, `jax.grad`, `lax.scan`, optax and orbax work on
plain dicts of arrays, which dispatch in a third of the time of Flax's own transformations.
"""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from models.roles import Vector

Module = TypeVar("Module", bound=nnx.Module)


def init(build: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> dict:
    """The parameters of build(rngs), a nested dict of arrays."""
    return nnx.to_pure_dict(nnx.state(build(nnx.Rngs(key)), nnx.Param))


def roles(build: Callable[[nnx.Rngs], nnx.Module]) -> dict:
    """What each parameter of `init` is: the metadata "role" that it was made with, or a `Vector`."""
    state = nnx.state(nnx.eval_shape(lambda: build(nnx.Rngs(0))), nnx.Param)
    return nnx.to_pure_dict(state, lambda param: param.get_metadata("role", Vector()))


def bind(build: Callable[[nnx.Rngs], Module], params: dict) -> Module:
    """The module of build(rngs) holding `params`; costs nothing inside jit."""
    graph, state = nnx.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
