"""A plan in words."""


def report(plan: dict) -> str:
    """The lines that experiments.plan prints."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items())
    lines = [
        f"{plan['config']} on {plan['topology']}: {plan['chips']} chips, {mesh}; "
        f"{plan['parameters']:,} parameters, {plan['vocab_size']:,} tokens",
    ]
    if "train" in plan:
        lines += _program("training step", plan["train"])
    if "run" in plan:
        run = plan["run"]
        lines.append(
            f"  run: {run['steps']:,} steps, {run['tokens']:.3g} tokens; at least {run['hours']:,.1f} "
            f"hours, at most {run['tokens_per_second']:,.0f} tokens/s"
        )
    if "evaluate" in plan:
        lines += _program(f"evaluation of {plan['evaluate']['rows']} sequences", plan["evaluate"])
    if "sample" in plan:
        lines += _program(f"sampler of {plan['sample']['rows']} sequences", plan["sample"])
    if "suggestion" in plan:
        better = plan["suggestion"]
        if better is None:
            lines.append("nothing that was tried fits; take more chips, or chips with more memory")
        else:
            lines.append(f"it fits with --set {' --set '.join(better['set'])}")
            lines += _program("training step then", better)
    return "\n".join(lines)


def _program(name: str, figures: dict) -> list[str]:
    memory = figures["bytes_per_chip"]
    capacity = f"of {_gib(memory['available'])} a chip"
    if not figures["fits"]:
        return [f"{name}: DOES NOT FIT, {_gib(memory['total'])} {capacity}"]
    sent = ", ".join(
        f"{kind} {_gib(moved['bytes'])} in {moved['count']}"
        for kind, moved in figures["collectives_per_chip"].items()
        if moved["count"]
    )
    least = ", ".join(f"{name} {_time(s)}" for name, s in figures["least_seconds"].items())
    return [
        f"{name}: fits, {_gib(memory['total'])} {capacity} (arguments {_gib(memory['arguments'])}, "
        f"temporary {_gib(memory['temporary'])}), compiled in {figures['compile_seconds']:.0f} s",
        f"  {figures['flops']:.3g} FLOPs, {figures['flops_per_chip']:.3g} a chip",
        f"  a chip sends: {sent or 'nothing'}",
        f"  at least {_time(figures['seconds'])}, limited by {figures['limited_by']} ({least})",
    ]


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f} GiB" if size >= 2**27 else f"{size / 2**20:.2f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.2f} ms"
