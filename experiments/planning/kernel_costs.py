"""What the attention kernel of models/attention.py does, from its call in a compiled program.

The compiler's text has a kernel as one call and says nothing of what is inside. Its matrix products
follow from the shapes, and what it reads from its blocks: the scores of a block of queries and one of
keys are made in fast memory, so that the forward pass and the gradient of the queries read all keys and
values for each block of queries, and the gradient of keys and values the reverse.
"""

import math
import re
from collections.abc import Mapping

from experiments.planning.hlo import Instruction, arrays

# Products over (L, L) of each pass: scores and mixture; the scores again, and the gradients of the
# weights and of what the pass is named after.
_PRODUCTS = {"fwd": 2, "dq": 3, "dkv": 4}
_OUTER = {"fwd": "block_q", "dq": "block_q_dq", "dkv": "block_kv_dkv"}
_LANES = 128  # the last side of an array is padded to this where a kernel reads it


def is_kernel(one: Instruction) -> bool:
    """Whether the instruction is a kernel written for TPUs."""
    return one.opcode == "custom-call" and 'custom_call_target="tpu_custom_call"' in one.attributes


def kernel_flops(one: Instruction, computation: Mapping[str, Instruction]) -> int:
    """Multiplications and additions of its matrix products; ValueError as `_phase`."""
    *rows_heads, length, width = _operands(one, computation)[0][1]
    return 2 * _PRODUCTS[_phase(one)] * math.prod(rows_heads) * length**2 * width


def kernel_traffic(one: Instruction, computation: Mapping[str, Instruction]) -> int:
    """Bytes that it moves between main memory and its core, without arrays that are in fast memory."""
    phase, (q, k, v, *others) = _phase(one), _operands(one, computation)
    once, again = ([q, *others], [k, v]) if phase in ("fwd", "dq") else ([k, v], [q, *others])
    block = one.attribute(rf'"{_OUTER[phase]}\\?": (\d+)')
    again *= k[1][-2] // int(block)
    return sum(map(_bytes, [*once, *again, *arrays(one.shape)]))


def _phase(one: Instruction) -> str:
    """fwd, dq or dkv; ValueError for a kernel of which nothing is known."""
    named = re.search(r"/splash_mha_(fwd|dq|dkv)_\w+/pallas_call", one.attributes)
    if named is None:
        raise ValueError(
            f"{one.name} is a kernel whose work experiments/planning/kernel_costs.py does not know"
        )
    return named[1]


def _operands(one: Instruction, computation: Mapping[str, Instruction]) -> list:
    """q, k, v and in the gradients what the forward pass left, each (B, H, ...) or of one row (H, ...),
    as `arrays`; not the integers that say which blocks there are."""
    shapes = [computation[name].shape for name in one.operands]
    return [arrays(shape)[0] for shape in shapes if shape.startswith(("bf16", "f32"))]


def _bytes(array) -> int:
    bits, dims, outside = array
    *rest, last = dims
    return outside * math.prod(rest) * -(-last // _LANES) * _LANES * bits // 8
