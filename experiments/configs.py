"""List the experiment files with their descriptions and results.

Pass a file to `ddlm train` as --config. Results come from the file's docstring.

Examples:
    ddlm configs
    ddlm configs sotu
    ddlm configs "text8/*flow"
"""

from experiments import cli


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("configs", __doc__)
    options.add_argument(
        "pattern",
        nargs="?",
        default="",
        metavar="PATTERN",
        help="only files with this in their path or description; * stands for anything",
    )
    return options


def main(arguments: list[str]) -> None:
    """Nothing; the files are printed, each with its results below."""
    from experiments.overview.configs import configs

    found = configs(command_line().parse_args(arguments).pattern)
    width = max(len(str(config.path)) for config in found)
    for config in found:
        print(f"{config.path!s:<{width}}  {config.what}")
        if config.measured:
            print(f"{'':<{width}}  {config.measured}")


if __name__ == "__main__":
    cli.run("configs")
