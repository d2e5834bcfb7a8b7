"""What a program asks for before it is compiled: its matrix products, over all devices."""

import math
from typing import Any, cast

from jax.extend.core import ClosedJaxpr, Jaxpr


def program_flops(jaxpr: ClosedJaxpr | Jaxpr) -> int:
    """Multiplications and additions of all matrix products, loops as often as they run, of branches the
    larger one; a loop of unknown length counts once."""
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        if equation.primitive.name == "dot_general":
            (over, _), _ = equation.params["dimension_numbers"]
            left, out = (cast(Any, v[0].aval).shape for v in (equation.invars, equation.outvars))
            total += 2 * math.prod(out) * math.prod(left[d] for d in over)
            continue
        inner = [
            program_flops(each)
            for value in equation.params.values()
            for each in (value if isinstance(value, tuple | list) else [value])
            if isinstance(each, ClosedJaxpr | Jaxpr)
        ]
        if equation.primitive.name == "cond":
            inner = [max(inner)]
        times = equation.params.get("length", 1)
        if equation.primitive.name == "pallas_call":  # what it does at each place of a grid
            times = math.prod(equation.params["grid_mapping"].grid)
        elif equation.primitive.name == "shard_map":  # what one device does
            times = equation.params["mesh"].size
        total += times * sum(inner) if inner else 0
    return total
