"""Check that losses do not depend on how arrays are placed on devices:

    python -m experiments.studies.mesh_table --out meshes.md

For a small version of each config in configs/sotu (or --configs), takes the same --steps training steps
on one device and on meshes of 2, 4 and 8 virtual CPU devices. Compares losses, parameters, the running
mean of gradients and the evaluated bound (or the validation loss if there is no bound) with one device.
A config is a file, or "FILE SETTING=VALUE ..."; the settings accumulation, scan and remat apply only to
the meshes. --meshes are DATAxFSDPxTENSOR. Exits with code 1 if a difference exceeds what the order of
summation explains, or if an array that should be split is not.

It compiles about 1,000 programs; JAX_DISABLE_MOST_OPTIMIZATIONS=1 in the environment makes this faster.
JAX_PLATFORMS=cuda uses GPUs, on a machine that has enough of them.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments import cli

FOLDER = "configs/sotu"
MESHES = (
    "2x1x1", "4x1x1", "8x1x1", "1x2x1", "1x4x1", "1x8x1", "1x1x2", "1x1x4", "1x1x8",
    "2x2x2", "4x2x1", "2x1x4",
)  # fmt: skip
# Beside the configs as they are: each way to save memory, which changes no result either.
BESIDES = (
    f"{FOLDER}/mdlm_labels.py train.batch_size=16 train.accumulation=2",
    f"{FOLDER}/d3pm_uniform.py model.num_layers=2 model.scan=True model.remat=True",
)
SAVING = ("train.accumulation", "model.scan", "model.remat")
LIMITS = {"loss": 1e-5, "evaluation": 1e-5, "params": 1e-5, "gradients": 1e-5, "drawn": 0.0}
_DEVICES = "xla_force_host_platform_device_count"


def main(arguments: list[str]) -> list:
    """What came out for every objective on every mesh, which the page shows."""
    options = cli.parser("studies.mesh_table", __doc__)
    options.add_argument(
        "--out", type=cli.output, help="the Markdown file to write (default: the standard output)"
    )
    options.add_argument("--configs", nargs="+", help="default: all of configs/sotu, and two more")
    options.add_argument("--meshes", nargs="+", default=MESHES, help="default: all twelve")
    options.add_argument("--steps", type=cli.positive, default=3)
    args = options.parse_args(arguments)
    if "jax" not in sys.modules:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
        flags = os.environ.get("XLA_FLAGS", "")
        if _DEVICES not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} --{_DEVICES}=8".strip()

    import jax

    from experiments.errors import UserError
    from experiments.files import write_atomically
    from experiments.streams import complain
    from experiments.studies.measuring.mesh_losses import Row, measure, mesh_of

    for name in args.meshes:
        mesh_of(name)  # before anything is measured
    configs = args.configs or [*_configs(), *BESIDES]
    if not configs:
        raise UserError(
            f"{FOLDER} holds no configs; run in the project's folder, or give --configs"
        )
    rows = []
    for case in configs:
        path, *settings = case.split() or [case]
        saving = [s for s in settings if s.partition("=")[0] in SAVING]
        shared = [s for s in settings if s not in saving]
        meshes = [("1x1x1", ()), *((name, saving) for name in args.meshes)]
        outcomes = measure(path, shared, meshes, args.steps)
        row = Row(" ".join([Path(path).stem, *settings]), outcomes, alike=not saving)
        rows.append(row)
        complain(f"{row.name}: {_summary(row)}")
        jax.clear_caches()
    faults = [f"{row.name}: {fault}" for row in rows for fault in row.faults(args.meshes, LIMITS)]
    text = page(rows, args.meshes, args.steps)
    if args.out:
        write_atomically(args.out, text)
    else:
        print(text, end="")
    if faults:
        complain("\n".join(faults))
        raise SystemExit(1)
    return rows


def _configs() -> list[str]:
    return [str(p) for p in sorted(Path(FOLDER).glob("*.py")) if p.name != "__init__.py"]


def _summary(row) -> str:
    return ", ".join(f"{name} {row.greatest(name):.1e}" for name in LIMITS)


def kind(mesh: str) -> str:
    """data, fsdp or tensor, the one axis that is larger than 1, or mixed."""
    larger = [
        axis
        for axis, size in zip(("data", "fsdp", "tensor"), mesh.split("x"), strict=True)
        if size != "1"
    ]
    return larger[0] if len(larger) == 1 else "mixed"


def page(rows: list, meshes: Sequence[str], steps: int) -> str:
    """The three tables, Markdown."""
    import jax

    kinds = list(dict.fromkeys(kind(mesh) for mesh in meshes))
    lines = [
        f"jax {jax.__version__}, {jax.device_count()} x {jax.devices()[0].device_kind}, {steps} steps. "
        "Meshes are data x fsdp x tensor.",
        "",
        "Greatest difference from one device over the meshes, relative: of the loss of any step, by "
        "kind of mesh; of the evaluation of a sequence; of an array of gradients (their running mean) "
        "and of parameters, in norm.",
        "",
        f"| config | loss of step {steps} | evaluation | {' | '.join(f'loss, {k}' for k in kinds)} "
        "| evaluation | gradients | parameters |",
        f"|---|{'---:|' * (5 + len(kinds))}",
    ]
    for row in rows:
        trained = row.outcomes[0].losses.size > 0
        cells = [f"{row.outcomes[0].losses[-1]:.4f}" if trained else "-", f"{row.evaluation:.4f}"]
        for k in kinds:
            of_kind = [d.loss for d, m in zip(row.differences, meshes, strict=True) if kind(m) == k]
            cells.append(_small(max(of_kind)) if trained else "-")
        cells.append(_small(row.greatest("evaluation")))
        for name in ("gradients", "params"):
            cells.append(_small(row.greatest(name)) if trained else "-")
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    lines += [
        "",
        "Of a device, in parts of what one device alone has: bytes of the state after training, and "
        "FLOPs of a step as compiled (least and greatest over the configs as they are).",
        "",
        "| mesh | state | FLOPs |",
        "|---|---:|---:|",
    ]
    for n, mesh in enumerate(meshes, 1):
        shares = [row.outcomes[n].share for row in rows]
        flops = [
            r.outcomes[n].flops / r.outcomes[0].flops
            for r in rows
            if r.alike and r.outcomes[0].flops
        ]
        lines.append(f"| {mesh} | {_range(shares)} | {_range(flops)} |")
    lines += [
        "",
        f"Loss of step {steps}, nats per token (classifier and edlm: per sequence):",
        "",
        f"| config | 1x1x1 | {' | '.join(meshes)} |",
        f"|---|{'---:|' * (1 + len(meshes))}",
    ]
    for row in rows:
        losses = [f"{f.losses[-1]:.7f}" if f.losses.size else "-" for f in row.outcomes]
        lines.append(f"| {row.name} | {' | '.join(losses)} |")
    return "\n".join(lines) + "\n"


def _small(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _range(values: list[float]) -> str:
    if not values:
        return "-"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


if __name__ == "__main__":
    cli.run("studies.mesh_table")
