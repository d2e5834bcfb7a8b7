"""Combine traces of samples on one page, to play them side by side.

TRACEs are pages that `ddlm sample --trace` wrote, such as for different samplers, runs or settings. They
play together, each from noise to text, and appear one below the other on a phone.

Examples:
    ddlm trace both.html ancestral.html hitting.html
"""

from experiments import cli
from experiments.errors import UserError


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("trace", __doc__)
    options.add_argument("page", type=cli.output, metavar="PAGE", help="the .html file to write")
    options.add_argument(
        "traces", nargs="+", metavar="TRACE", help="a page that ddlm sample --trace wrote"
    )
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the page is written."""
    args = command_line().parse_args(arguments)

    from pathlib import Path

    from experiments.files import write_atomically
    from experiments.sampling.trace_page import pages, rendered_anew

    traces = []
    for path in args.traces:
        text = Path(path).read_bytes().decode("ascii", "replace")
        try:
            traces.append(rendered_anew(text))
        except ValueError as error:
            raise UserError(
                f"{path} is no trace; give a page that ddlm sample --trace wrote"
            ) from error
    write_atomically(args.page, pages(traces))
    print(f"traces: {args.page} (open it in a browser)")


if __name__ == "__main__":
    cli.run("trace")
