"""The boundary between Flax and the rest: a module as two pure functions over a nested dict.

Outside `models/` nobody sees a Flax object: `jax.jit`, `jax.grad`, `lax.scan`, optax and orbax work on
plain dicts of arrays, which dispatch in a third of the time of Flax's own transformations.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar

import jax
from flax import nnx

from models.roles import Vector

Module = TypeVar("Module", bound=nnx.Module)


def init(build: Callable[[nnx.Rngs], nnx.Module], key: jax.Array) -> dict:
    """The parameters of build(rngs), a nested dict of arrays. `build` is a method of a network, which as
    a frozen dataclass stands for all that the method reads."""
    return _init(*_parts(build), key)


def roles(build: Callable[[nnx.Rngs], nnx.Module]) -> dict:
    """What each parameter of `init` is: the metadata "role" that it was made with, or a `Vector`."""
    _, state = _abstract(*_parts(build))
    params = nnx.filter_state(state, nnx.Param)
    return nnx.to_pure_dict(params, lambda param: param.get_metadata("role", Vector()))


def bind(build: Callable[[nnx.Rngs], Module], params: dict) -> Module:
    """The module of build(rngs) holding `params`; costs nothing inside jit."""
    graph, state = _abstract(*_parts(build))
    state = jax.tree.map(lambda leaf: leaf, state)  # a copy
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def _parts(build: Callable) -> tuple[Callable, Any]:
    """The function of a method and its network: unlike methods, they are equal where networks are."""
    return build.__func__, build.__self__


@partial(jax.jit, static_argnums=(0, 1))
def _init(function: Callable, network: Any, key: jax.Array) -> dict:
    return nnx.to_pure_dict(nnx.state(function(network, nnx.Rngs(key)), nnx.Param))


@lru_cache(maxsize=128)
def _abstract(function: Callable, network: Any) -> tuple:
    """Its graph and shapes, which take some 20 ms: they are asked for at each layer of each program."""
    return nnx.split(nnx.eval_shape(lambda: function(network, nnx.Rngs(0))))
