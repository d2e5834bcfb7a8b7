"""A compiled program read from its HLO text: instructions, and how often each computation runs."""

import math
import re
from collections import defaultdict
from dataclasses import dataclass

_ARRAY = re.compile(r"\b([a-z]+)(\d*)[a-z\d]*\[([\d,]*)\](\{[^}]*\})?")
_LINE = re.compile(r"\s*(ROOT )?%?([\w.\-]+) = (.*)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")


@dataclass(frozen=True)
class Instruction:
    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool = False
    literal: str = ""  # what stands between the parentheses

    def attribute(self, pattern: str) -> str:
        """What the group of the pattern matches in the attributes; ValueError where none does."""
        found = re.search(pattern, self.attributes)
        if found is None:
            raise ValueError(f"{self.name} has no attribute of the form {pattern}")
        return found[1]

    def called(self, *kinds: str) -> list[str]:
        """The computations it names by attributes of these kinds, such as body."""
        pattern = rf"\b(?:{'|'.join(kinds)})=\{{?(%?[\w.\-]+(?:, %[\w.\-]+)*)"
        lists = re.findall(pattern, self.attributes)
        return [name.strip().lstrip("%") for names in lists for name in names.split(",")]


@dataclass(frozen=True)
class Module:
    """Computations by name, each {instruction's name: instruction} in order; times: how often each
    runs, branches as if all of them did."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    @property
    def times(self) -> dict[str, int]:
        """How often each computation runs, by its name."""
        times: dict[str, int] = defaultdict(int)

        def visit(name, count):
            times[name] += count
            for one in self.computations.get(name, {}).values():
                if one.opcode == "while":
                    trips = _trips(self, one)
                    for inner in one.called("body"):
                        visit(inner, count * trips)
                elif one.opcode not in ("async-done", "async-update"):
                    for inner in one.called(
                        "calls", "branch_computations", "true_computation", "false_computation"
                    ):
                        visit(inner, count)
                    if one.opcode == "call":
                        for inner in one.called("to_apply"):
                            visit(inner, count)

        visit(self.entry, 1)
        return dict(times)


def parse(text: str) -> Module:
    """The module of compiled.as_text(); ValueError for a text without an entry computation."""
    computations, current, entry = {}, None, None
    # The attributes of a kernel go over several lines, of which one begins with a brace.
    for line in re.sub(r"=\{\n(.*)\n\}\}", r"={\1}}", text).splitlines():
        if current is None:
            header = _HEADER.match(line)
            if header:
                current = computations.setdefault(header[2], {})
                entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif match := _LINE.match(line):
            one = _instruction(*match.groups())
            current[one.name] = one
    if entry is None:
        raise ValueError("the text has no ENTRY computation; give that of compiled.as_text()")
    return Module(computations, entry)


def _instruction(root, name, rest) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    stop = _closing(rest, start)
    inside = rest[start + 1 : stop]
    return Instruction(
        name,
        shape,
        rest[:start],
        tuple(re.findall(r"%([\w.\-]+)", inside)),
        rest[stop + 1 :],
        bool(root),
        inside,
    )


def _closing(text: str, start: int) -> int:
    depth = 0
    for match in re.finditer(r"[()]", text[start:]):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return start + match.start()
    raise ValueError(f"unbalanced parentheses in {text[:80]}")


def _trips(module: Module, loop: Instruction) -> int:
    """How often the loop runs: as the compiler says, or the bound that its counter is compared with."""
    known = re.search(r'known_trip_count[^}]*?"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.called("condition")[0]].values()
    bounds = [
        int(one.literal)
        for one in condition
        if one.opcode == "constant" and re.fullmatch(r"\d+", one.literal)
    ]
    return max(bounds, default=1)


def arrays(shape: str) -> list[tuple[int, tuple[int, ...], bool]]:
    """(bits of an element, dimensions, whether in the chip's main memory) of each array of a shape."""
    parsed = []
    for kind, bits, dims, layout in _ARRAY.findall(shape):
        size = 8 if kind == "pred" else int(bits or 0)
        sizes = tuple(int(d) for d in dims.split(",") if d)
        parsed.append((size, sizes, not re.search(r"S\([1-9]\d*\)", layout)))
    return parsed


def num_bytes(shape: str, main_memory: bool = False) -> int:
    """Bytes of the arrays of a shape; main_memory: without those in the chip's fast memory."""
    return sum(
        math.prod(dims) * bits // 8
        for bits, dims, outside in arrays(shape)
        if outside or not main_memory
    )
