"""What a compiled program does: matrix products, collectives and memory traffic, from its HLO text.

XLA's own cost analysis counts the body of a loop once, and a program that scans over its layers is
mostly such a body. Here each computation is counted as often as its loops run it. What is counted is
what one chip does, since the text is the program of one chip.
"""

import math
import re
from collections import defaultdict

from experiments.planning.hlo import Instruction, Module, arrays, num_bytes
from experiments.planning.kernel_costs import is_kernel, kernel_flops, kernel_traffic

COLLECTIVES = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "collective-permute",
)
# What moves nothing by itself: names, parts and the ends of what is counted at its start.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call",
    "partition-id", "replica-id", "after-all", "opt-barrier",
}  # fmt: skip
# Inside a fusion that does part of a collective beside its own work, what only passes through.
_PASSED = {*COLLECTIVES, "parameter", "tuple", "custom-call"}


def collectives(module: Module) -> dict[str, dict[str, int]]:
    """{kind: {"count", "bytes"}}: how often a chip takes part in each kind, and the bytes it sends.

    n chips in a group with an array of S bytes: all-gather (S gathered), reduce-scatter (S before) and
    all-to-all send S (n - 1) / n, all-reduce twice that, collective-permute S, as rings do.
    A collective that was made asynchronous occurs as a start and a done, or in pieces with one
    channel: it is counted once.
    """
    seen: dict[tuple, tuple[int, str, float]] = {}
    times = module.times
    for name, computation in module.computations.items():
        for one in computation.values():
            opcode = one.opcode.removesuffix("-start")
            if opcode not in COLLECTIVES or not times.get(name):
                continue
            # TPU programs have reduce-scatter as a fusion of this name around an all-reduce.
            kind = "reduce-scatter" if "all-reduce-scatter" in name else opcode
            channel = re.search(r"channel_id=(\d+)", one.attributes)
            key = (opcode, channel[1]) if channel else (opcode, name, one.name)
            sent = _sent(kind, one, computation)
            count = max(times[name], seen.get(key, (0,))[0])
            seen[key] = (count, kind, sent)
    totals = {kind: {"count": 0, "bytes": 0} for kind in COLLECTIVES}
    for count, kind, sent in seen.values():
        totals[kind]["count"] += count
        totals[kind]["bytes"] += round(count * sent)
    return totals


def _sent(kind: str, one: Instruction, computation) -> float:
    operand_bytes = sum(num_bytes(computation[o].shape) for o in one.operands if o in computation)
    if kind == "collective-permute":
        return operand_bytes
    size = group_size(one.attributes)
    whole = operand_bytes * size if kind == "all-gather" else operand_bytes
    return whole * (size - 1) / size * (2 if kind == "all-reduce" else 1)


def group_size(attributes: str) -> int:
    """Chips in a group: {{0,1},{2,3}}, [groups,chips]<=[...], or axes of a mesh; ValueError without."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return len(listed[1].split(","))
    iota = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if iota:
        return int(iota[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", attributes)
    if not mesh:
        raise ValueError(f"no groups of chips in {attributes[:120]}")
    sizes = {axis: int(n) for axis, n in re.findall(r"'([^']+)'=(\d+)", mesh[1])}
    parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
    return math.prod(int(part) if part else sizes[axis] for axis, part in parts)


def matmul_flops(module: Module) -> int:
    """Multiplications and additions of all matrix products, which TPU programs have as convolutions."""
    total = 0
    for name, count in module.times.items():
        computation = module.computations.get(name, {})
        for one in computation.values():
            if one.opcode == "dot":
                total += count * _dot_flops(one, computation)
            elif one.opcode == "convolution":
                total += count * _convolution_flops(one, computation)
            elif is_kernel(one):
                total += count * kernel_flops(one, computation)
    return total


def _dims(one: Instruction) -> tuple[int, ...]:
    return arrays(one.shape)[0][1]


def _dot_flops(one, computation) -> int:
    left = _dims(computation[one.operands[0]])
    over = one.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    return 2 * math.prod(_dims(one)) * math.prod(left[int(d)] for d in over.split(",") if d)


def _convolution_flops(one, computation) -> int:
    """Only products of elements that exist: batched matrix products are convolutions of windows in
    which all but one element is padding."""
    left, right = (_dims(computation[o]) for o in one.operands[:2])
    inputs, kernel, output = re.split("_|->", one.attribute(r"dim_labels=(\w+->\w+)"))
    window = re.search(r"window=\{([^}]*)\}", one.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}
    spatial = sorted(set(output) - set("bf"))

    def each(key, default):
        return settings[key].split("x") if key in settings else [default] * len(spatial)

    products = 2 * left[inputs.index("b")] * right[kernel.index("o")] * right[kernel.index("i")]
    details = [each(*kd) for kd in (("size", "1"), ("stride", "1"), ("pad", "0_0"),
                                    ("lhs_dilate", "1"), ("rhs_dilate", "1"))]  # fmt: skip
    for axis, size, stride, pad, dilation, spread in zip(spatial, *details, strict=True):
        reach = (left[inputs.index(axis)] - 1) * int(dilation)
        places = range(_dims(one)[output.index(axis)])
        products *= sum(
            0 <= at <= reach and at % int(dilation) == 0
            for place in places
            for k in range(int(size))
            for at in [place * int(stride) + k * int(spread) - int(pad.split("_")[0])]
        )
    return products


def traffic(module: Module) -> int:
    """Bytes between a chip's main memory and its cores: what each instruction reads and writes.

    Of an array that an instruction takes slices of, the slices count, and of one that it puts a slice
    into, the slice. What collectives send is read once and written once.
    """
    fused = {
        inner
        for computation in module.computations.values()
        for one in computation.values()
        if one.opcode == "fusion"
        for inner in one.called("calls")
    }
    total = 2 * sum(kind["bytes"] for kind in collectives(module).values())
    for name, count in module.times.items():
        if name in fused:
            continue
        computation = module.computations.get(name, {})
        for one in computation.values():
            if one.opcode in _FREE or one.opcode.endswith(("-done", "-update")):
                continue
            if one.opcode.removesuffix("-start") not in COLLECTIVES:
                total += count * _moved(module, one, computation)
    return total


def _moved(module: Module, one: Instruction, computation) -> int:
    if is_kernel(one):
        return kernel_traffic(one, computation)
    if one.opcode.endswith("-start"):  # source and destination, of which one may be a slice
        both = [
            (math.prod(dims) * bits // 8, outside)
            for bits, dims, outside in arrays(one.shape)
            if dims
        ]
        return min(size for size, _ in both) * sum(outside for _, outside in both)
    inner = module.computations.get(next(iter(one.called("calls")), ""), {})
    parameters = [i for i in inner.values() if i.opcode == "parameter"]
    parameters.sort(key=lambda i: int(i.literal))
    if len(parameters) != len(one.operands) or one.opcode != "fusion":
        read = [_read(computation, o, [(at, one)]) for at, o in enumerate(one.operands)]
        return sum(read) + _written(one, computation)
    users = defaultdict(list)
    for i in inner.values():
        for at, operand in enumerate(i.operands):
            users[operand].append((at, i))
    read = [
        _read(computation, o, users[p.name]) for o, p in zip(one.operands, parameters, strict=True)
    ]
    root = next(i for i in inner.values() if i.root)
    if root.opcode != "tuple":
        return sum(read) + (_written(root, inner) if num_bytes(one.shape, True) else 0)
    outside = [out for _, _, out in arrays(one.shape)]
    parts = [inner[name] for name in root.operands if name in inner]
    written = [_written(part, inner) for part, out in zip(parts, outside, strict=False) if out]
    return sum(read) + sum(written)


def _written(one: Instruction, computation) -> int:
    if one.opcode in _PASSED:
        return 0
    if one.opcode == "dynamic-update-slice":
        return num_bytes(computation[one.operands[1]].shape)
    return num_bytes(one.shape, True)


def _read(computation, operand: str, users: list[tuple[int, Instruction]]) -> int:
    """Bytes read of an operand that is used so."""
    whole = num_bytes(computation[operand].shape, True) if operand in computation else 0
    part = 0
    for at, user in users:
        if user.opcode in ("dynamic-slice", "slice", "gather") and at == 0:
            part += num_bytes(user.shape)
        elif user.opcode not in _PASSED and not (user.opcode == "dynamic-update-slice" and at == 0):
            return whole
    return min(part, whole)
