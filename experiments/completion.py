"""Print a shell script that completes commands, options and files.

The script fits the options of this version, so print it again after an update. Put
eval "$(ddlm completion bash)" into ~/.bashrc, or the same with zsh into ~/.zshrc. It works for `ddlm`
in any location, not for `python -m`.

Examples:
    eval "$(ddlm completion bash)"
    ddlm completion fish > ~/.config/fish/completions/ddlm.fish
"""

import argparse
import importlib

from experiments import cli

# What stands behind an option or in the place of an argument, by its name in all commands.
FILES = ("config", "file", "out", "plot", "records", "samples", "scorer", "source", "table", "text")
FILES += ("page", "trace", "traces", "train")
FOLDERS = ("classifier", "folder", "runs", "workdir")
WORDS = {"grid": ("uniform", "cosine", "fitted"), "split": ("train", "validation", "test")}
_SHELLS = ("bash", "zsh", "fish")


def command_line() -> cli.Parser:
    """The options of the command."""
    options = cli.parser("completion", __doc__)
    options.add_argument("shell", choices=_SHELLS, help="the shell that the script is for")
    return options


def every_command() -> argparse.ArgumentParser:
    """`ddlm` with all its commands, each argument of which says how shtab completes it."""
    import shtab

    from experiments.data.builders import DATASETS

    words = WORDS | {"dataset": tuple(DATASETS)}
    whole = argparse.ArgumentParser(prog="ddlm")
    whole.add_argument("--version", action="store_true", help="print the version")
    commands = whole.add_subparsers()
    for name in cli.COMMANDS:
        options = importlib.import_module(f"experiments.{name}").command_line()
        added = commands.add_parser(name, parents=[options], add_help=False, help=options.summary)
        for action in added._actions:
            if action.dest in FILES:
                action.complete = shtab.FILE  # pyright: ignore[reportAttributeAccessIssue]
            elif action.dest in FOLDERS:
                action.complete = shtab.DIRECTORY  # pyright: ignore[reportAttributeAccessIssue]
            elif action.dest in words:
                action.choices = words[action.dest]
    return whole


def main(arguments: list[str]) -> None:
    """Nothing; the script is printed."""
    args = command_line().parse_args(arguments)

    import shtab

    print(shtab.complete(every_command(), args.shell))


if __name__ == "__main__":
    cli.run("completion")
