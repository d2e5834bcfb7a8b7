"""Trace: ddlm trace BOTH.html A.html B.html ...

Puts traces that `ddlm sample --trace` wrote side by side on one page, on a phone below each other: of
several samplers, runs or settings. They play together, each from its noise to its text.
"""

from experiments import cli
from experiments.errors import UserError


def main(arguments: list[str]) -> None:
    """Nothing; the page is written."""
    options = cli.parser("trace", __doc__)
    options.add_argument("page", type=cli.output, metavar="PAGE", help="the .html file to write")
    options.add_argument(
        "traces", nargs="+", metavar="TRACE", help="what ddlm sample --trace wrote"
    )
    args = options.parse_args(arguments)

    from pathlib import Path

    from experiments.files import write_atomically
    from experiments.sampling.trace_page import is_page, pages

    traces = []
    for path in args.traces:
        text = Path(path).read_bytes().decode("ascii", "replace")
        if not is_page(text):
            raise UserError(f"{path} is no trace; give a page that ddlm sample --trace wrote")
        traces.append(text)
    write_atomically(args.page, pages(traces))
    print(f"traces: {args.page}, to be opened in a browser")


if __name__ == "__main__":
    cli.run("trace")
