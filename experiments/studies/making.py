"""Picture how a text is sampled: python -m experiments.studies.making --workdir RUN --out making.svg

Shows one sample of a run, with one line for every few steps: dots are masks, and tokens that are new
since the line above are highlighted. The file is self-contained and suits light and dark backgrounds.
"""

from html import escape

from experiments import cli
from experiments.errors import UserError

CHARACTER, LINE, MARGIN = 7.3, 22, 12  # of a monospaced font of 12 px


def main(arguments: list[str]) -> str:
    """The picture, an SVG document, which is written to --out."""
    options = cli.parser("studies.making", __doc__)
    options.add_argument("--workdir", required=True, help="the run directory")
    options.add_argument("--out", type=cli.output, required=True, help="the .svg file")
    options.add_argument(
        "--steps", type=cli.positive, default=32, help="steps of the sampler (default 32)"
    )
    options.add_argument(
        "--lines", type=cli.positive, default=9, help="number of lines (default 9)"
    )
    options.add_argument("--seed", type=cli.natural, default=0)
    options.add_argument("--prompt", default="", help="what the text begins with")
    args = options.parse_args(arguments)

    from diffusion.process import denoising_process
    from experiments.files import write_atomically
    from experiments.run import load_run
    from experiments.sampling.request import Request, prepare
    from experiments.sampling.samples import sample_run
    from experiments.sampling.trace import trace_record

    request = Request(steps=args.steps, seed=args.seed, prompt=args.prompt)
    ready = prepare(load_run(args.workdir), request, args.workdir)
    if denoising_process(ready.run.experiment.process).space.mask is None:
        raise UserError(
            f"--workdir {args.workdir}: its process has no mask, which this picture shows"
        )
    drawn = list(sample_run(ready.run, 1, args.seed, ready.known, 1, ready.constraints, trace=True))
    record = trace_record(ready.run.experiment, args.workdir, drawn)
    picture = svg(record["samples"][0], record["symbols"], record["mask"], args.lines)
    write_atomically(args.out, picture)
    return picture


def svg(sample: dict, symbols: list[str], mask: int, lines: int) -> str:
    """The document: `lines` frames of the sample at equal distances, the first and last too."""
    frames = sample["tokens"]
    last = len(frames) - 1
    chosen = sorted({round(n * last / max(lines - 1, 1)) for n in range(lines)} | {last})
    rows, before = [], None
    for n, k in enumerate(chosen):
        rows.append(
            _row(frames[k], before, symbols, mask, MARGIN + LINE * n + 14, sample["times"][k])
        )
        before = frames[k]
    width = 2 * MARGIN + CHARACTER * (len(frames[0]) + 9)
    height = 2 * MARGIN + LINE * len(chosen)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" role="img">\n'
        "<title>A text being made, from noise to data</title>\n<style>\n"
        "text { font: 12px ui-monospace, Menlo, Consolas, monospace; fill: #57606a }\n"
        ".new { fill: #0969da; font-weight: 700 } .time { fill: #8c959f }\n"
        "@media (prefers-color-scheme: dark) {\n"
        "text { fill: #adbac7 } .new { fill: #6cb6ff } .time { fill: #768390 } }\n</style>\n"
        + "\n".join(rows)
        + "\n</svg>\n"
    )


def _row(tokens, before, symbols: list[str], mask: int, y: int, time: float) -> str:
    """A line of text: runs of old and new tokens, each run a <tspan>."""
    spans, start = [], 0
    new = [before is not None and v != before[i] for i, v in enumerate(tokens)]
    for end in range(1, len(tokens) + 1):
        if end == len(tokens) or new[end] != new[start]:
            text = "".join("·" if v == mask else symbols[v] for v in tokens[start:end])
            kind = ' class="new"' if new[start] else ""
            spans.append(f"<tspan{kind}>{escape(text)}</tspan>")
            start = end
    along = f'x="{MARGIN}" y="{y}" xml:space="preserve"'
    return f'<text {along}><tspan class="time">t = {time:.2f}  </tspan>{"".join(spans)}</text>'


if __name__ == "__main__":
    cli.run("studies.making")
