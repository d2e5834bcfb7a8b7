"""TPU chips and the shapes of their slices, as Google's documentation gives them.

v5e: https://cloud.google.com/tpu/docs/v5e, v5p: https://cloud.google.com/tpu/docs/v5p, v6e:
https://docs.cloud.google.com/tpu/docs/v6e. Memory is called 16, 95 and 32 GB there and taken as GiB;
the compiler keeps a little of it for itself. Interconnect: half of what is called bidirectional (400 and
800 GBps; for v5p 4800 Gbps are given, which are of one way), all links of a chip together.
"""

from dataclasses import dataclass

from experiments.errors import UserError


@dataclass(frozen=True)
class Chip:
    """memory in bytes, flops of bfloat16 a second, bytes a second from memory and to other chips."""

    memory: int
    flops: float
    memory_rate: float
    link_rate: float


CHIPS = {
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 200e9),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 600e9),
    "v6e": Chip(32 * 2**30, 918e12, 1638e9, 400e9),
}
_PLANE = ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16",
    "16x16x16", "16x16x24",
)  # fmt: skip
SHAPES = {"v5e": _PLANE, "v5p": _CUBE, "v6e": _PLANE}


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16; UserError, with those there are, for another."""
    kind, _, shape = topology.partition(":")
    if kind not in CHIPS:
        raise UserError(
            f"--topology {topology}: unknown; chips are {', '.join(CHIPS)}, as in v5e:16x16"
        )
    if shape not in SHAPES[kind]:
        known = ", ".join(f"{kind}:{s}" for s in SHAPES[kind])
        raise UserError(f"--topology {topology}: unknown; slices of {kind} are {known}")
    return CHIPS[kind]
