"""Write the table of samplers: python -m experiments.studies.sampler_table --out docs/samplers.md

docs/samplers.md shows which sampler supports which process (`Sampler.compatibility`). Samplers and
processes are found in their folders, and listed with their defaults and with the other settings that
compatibility depends on.
"""

import dataclasses
import inspect
import typing
from typing import Any

from diffusion.process import Objective
from experiments import cli
from samplers.sampler import Compatibility, Sampler

LENGTH = 128  # tokens, for the number of calls

TOP = f"""# Samplers

Made from the code by `python -m experiments.studies.sampler_table --out docs/samplers.md`.

- **exact**: the sampler draws from the distribution of the model's own reverse process, on the sampler's
  grid of times if it has one. With the exact denoiser this is the data distribution if tokens are drawn
  one by one; otherwise it approaches the data distribution with more steps, since the tokens of one step
  are drawn independently. A `LogitsProcessor` other than the identity gives the distribution of another
  model. All this holds without known tokens.
- **approximate**: another distribution, for the reason given. It may work better for a learned network.
- **unsupported**: the two cannot be combined; an experiment with both is an error with the same reason.

The effect of a known token (`--prompt`, `--template`) depends on the process:

- *own distribution*: known tokens are part of the state, clean. With masks, a revealed token never
  changes, so this is the sampler's usual conditional distribution. With the exact denoiser and one token
  at a time, it is the conditional distribution of the data.
- *vertices*: known tokens are vertices of the simplex, which stand for certain tokens. With the exact
  denoiser and small steps, this is the conditional distribution. A trained network has not seen it,
  since at time t it was trained with noise at all positions. For `BFN`, `TwistedSMC` adds the noise.
- *biased*: the network treats a clean token as a noisy one and trusts it too little. `TwistedSMC` is
  exact in the limit of many particles and small steps, and multiplies the number of calls.
- *by training*: the network is told where tokens may be inserted between known ones, and has learned
  what that means if `process.infilling` is above 0; else it takes them for tokens anywhere in a text.
- *prompt*: known tokens at the start are exact. A known token after a blank is kept, but the blank does
  not depend on it (`ddlm sample` rejects this). Within one block it does, as for the base process.

The number of calls is the maximum number of network calls for a row of {LENGTH} tokens with the settings
shown. A residual energy also evaluates its candidates; block by block, one extra call per block stores
the finished tokens. `OneStep` needs samplers with `steps=1`. The bound of `DirichletFlow` is that of its
ODE; the bridge of `Ancestral` has the same distribution at every time for the exact denoiser, but not
for a learned one.
"""


def main(arguments: list[str]) -> str:
    """The page, Markdown."""
    options = cli.parser("studies.sampler_table", __doc__)
    options.add_argument(
        "--out", type=cli.output, help="the file to write (default: the standard output)"
    )
    args = options.parse_args(arguments)

    from experiments.files import write_atomically

    text = page()
    if args.out:
        write_atomically(args.out, text)
    else:
        print(text, end="")
    return text


def processes() -> list:
    """Every process of this project with its defaults, and with each kernel and base it can have."""
    from diffusion.mdlm import MDLM
    from diffusion.process import Objective
    from experiments.overrides import choices

    every = []
    for cls in choices(Objective, MDLM):
        variants = [cls()]
        hints = typing.get_type_hints(cls)
        for f in dataclasses.fields(cls):
            if f.name in ("kernel", "base"):
                variants = [
                    made
                    for choice in choices(hints[f.name], type(f.default))
                    if (made := _made(cls, f.name, choice)) is not None
                ]
        every += variants
    return [process for process in every if process.traits.output == "tokens"]


def _made(cls: type, name: str, choice: type):
    try:
        return cls(**{name: choice()})
    except ValueError:  # what cannot stand there
        return None


def samplers() -> list:
    """Every sampler with its defaults, and with the settings that its compatibilities depend on."""
    from experiments.overrides import choices
    from samplers.ancestral import Ancestral
    from samplers.blocks import BlockByBlock
    from samplers.first_hitting import FirstHitting
    from samplers.mean_ancestral import MeanAncestral
    from samplers.predictor_corrector import PredictorCorrector
    from samplers.remask import ReMDM
    from samplers.sampler import Sampler
    from samplers.semi_autoregressive import SemiAutoregressive
    from samplers.sliding_window import SlidingWindow
    from samplers.twisted_smc import TwistedSMC
    from samplers.unmask import Tokens, Unmask

    besides = [
        Ancestral(cached=True), Ancestral(greedy_tail=True), FirstHitting(group=2),
        FirstHitting(steps=64), ReMDM(eta=0.0), Unmask("random"), Unmask("random", Tokens(1)),
        PredictorCorrector(corrector="forward_backward"),
        BlockByBlock(FirstHitting()), BlockByBlock(Unmask()),
        BlockByBlock(Unmask("random", Tokens(1))),
        SemiAutoregressive(fresh=32), SlidingWindow(FirstHitting()), SlidingWindow(TwistedSMC()),
        MeanAncestral(score_temperature=0.9), MeanAncestral(rounding="last"), MeanAncestral(end=0.3),
    ]  # fmt: skip
    every = []
    for cls in choices(Sampler, Ancestral):
        every += [cls(), *(s for s in besides if type(s) is cls)]
    return every


def fitting(sampler: Sampler, process: Objective) -> Sampler:
    """The sampler, in no more steps than the process takes."""
    if sampler.inner is not None:
        return dataclasses.replace(sampler, inner=fitting(sampler.inner, process))
    most = process.traits.max_steps
    if most is None or (sampler.steps or 0) <= most:
        return sampler
    return dataclasses.replace(sampler, steps=most)


def written(config: Any) -> str:
    """The dataclass as Python, what is as by default left out."""
    settings = []
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if value != f.default:
            settings.append(f"{f.name}={_value(value)}")
    return f"{type(config).__name__}({', '.join(settings)})"


def _value(value) -> str:
    return written(value) if dataclasses.is_dataclass(value) else repr(value)


def _known_token(process) -> str:
    """What a known token means, in the words of the page."""
    from diffusion.process import Composed, Process

    if process.traits.inserts:
        return "by training"
    if process.traits.attention_block is not None:
        inside = _known_token(process.base) if isinstance(process, Composed) else ""
        return f"prompt; in a block {inside}" if inside else "prompt"
    if not isinstance(process, Process):
        return _known_token(process.base) if isinstance(process, Composed) else "biased"
    return {"exact": "own distribution", "vertices": "vertices", "biased": "biased"}[
        process.known_tokens
    ]


def _named(group: list, all_of_them: list) -> str:
    """The processes of a group: a class where all its variants are in it, else each of them."""
    names = []
    for process in group:
        cls = type(process)
        together = [p for p in all_of_them if type(p) is cls]
        whole = all(any(p is q for q in group) for p in together)
        name = cls.__name__ if whole else _variant(process)
        if name not in names:
            names.append(name)
    return ", ".join(f"`{name}`" for name in names)


def _variant(process) -> str:
    for f in dataclasses.fields(process):
        if f.name in ("kernel", "base"):
            part = getattr(process, f.name)
            return f"{type(process).__name__}({type(part).__name__}())"
    return written(process)


def page() -> str:
    """docs/samplers.md."""
    every, ways = processes(), samplers()
    compatibilities = {
        (i, j): fitting(sampler, process).compatibility(process)
        for i, sampler in enumerate(ways)
        for j, process in enumerate(every)
    }
    lines = [TOP, "## By process", "", "Samplers that are not listed are unsupported.", ""]
    lines += ["| process | exact | approximate | a known token |", "|---|---|---|---|"]
    groups: dict[tuple, list] = {}
    for j, process in enumerate(every):
        kinds = tuple(compatibilities[i, j].kind for i in range(len(ways)))
        groups.setdefault((kinds, _known_token(process)), []).append(process)
    for (kinds, known), group in groups.items():
        cells = [
            ", ".join(
                f"`{written(s)}`"
                for s, own_kind in zip(ways, kinds, strict=True)
                if own_kind == kind
            )
            for kind in ("exact", "approximate")
        ]
        lines.append(f"| {_named(group, every)} | {cells[0]} | {cells[1]} | {known} |")
    lines += ["", "## By sampler", ""]
    for cls in dict.fromkeys(type(s) for s in ways):
        lines += _section(cls, ways, every, compatibilities)
    return "\n".join(lines).rstrip() + "\n"


def _section(cls: type, ways: list, every: list, compatibilities: dict) -> list[str]:
    file = cls.__module__.replace(".", "/") + ".py"
    first = (inspect.getdoc(inspect.getmodule(cls)) or "").split("\n\n")[0].replace("\n", " ")
    lines = [f"### {cls.__name__}", "", f"{first} (`{file}`)", ""]
    lines += ["| settings | calls | compatibility | why | processes |", "|---|---|---|---|---|"]
    for i, sampler in enumerate(ways):
        if type(sampler) is not cls:
            continue
        groups: dict[Compatibility, list[Objective]] = {}
        for j, process in enumerate(every):
            groups.setdefault(compatibilities[i, j], []).append(process)
        order = ("exact", "approximate", "unsupported")
        most = [
            sampler.calls(process, LENGTH)
            for j, process in enumerate(every)
            if compatibilities[i, j].kind != "unsupported"
        ]
        shown = [f"`{written(sampler)}`", str(max(most))]
        ranked = sorted(groups.items(), key=lambda g: (order.index(g[0].kind), len(g[1])))
        for number, (compatibility, group) in enumerate(ranked):
            rest = 0 < number == len(ranked) - 1 and compatibility.kind == "unsupported"
            names = "all others" if rest else _named(group, every)
            lines.append(
                f"| {' | '.join(shown)} | {compatibility.kind} | {compatibility.why} | {names} |"
            )
            shown = ["", ""]
    return [*lines, ""]


if __name__ == "__main__":
    cli.run("studies.sampler_table")
