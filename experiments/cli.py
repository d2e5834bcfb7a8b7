"""The command line: `ddlm train|sample|evaluate ...`, the same as `python -m experiments.train ...`.

Nothing heavy is imported here: on Linux the process first replaces itself by one whose malloc uses
huge pages, which makes training on CPU about a fifth faster (docs/measurements.md).
"""

import argparse
import importlib
import os
import sys
import traceback
from importlib.metadata import version

from experiments.errors import Diverged, Stopped, UserError

COMMANDS = {
    "train": "a model from an experiment config, or continue a run",
    "sample": "from a run's checkpoint",
    "evaluate": "a run's likelihood bound on text",
    "compare": "methods on one budget, or evaluation records",
    "quality": "of samples, beside that of real text",
    "compress": "a text by a run's model",
    "decompress": "what compress wrote",
    "prepare": "a published corpus, or documents of your own, as text files",
    "plan": "a run on a slice of TPUs, compiled without one",
}
_TUNABLE = "glibc.malloc.hugetlb"


class Parser(argparse.ArgumentParser):
    """Reports a mistake as UserError, which is one line, instead of usage and exit."""

    def error(self, message):
        raise UserError(f"{message}; see {self.prog} --help")


def parser(name: str, description: str) -> Parser:
    """A parser for the command `name` with the options that several commands share left out."""
    return Parser(
        prog=f"ddlm {name}" if name in COMMANDS else f"python -m experiments.{name}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_set(options: argparse.ArgumentParser) -> None:
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a setting, such as optimizer.peak_lr=1e-3; may be repeated",
    )


def add_distributed(options: argparse.ArgumentParser) -> None:
    """The option for `experiments.devices.distributed.start`."""
    options.add_argument(
        "--distributed",
        nargs="*",
        metavar="WHERE",
        help="this is one of several processes of the command: HOST:PORT of the first, how many there "
        "are, the number of this one; or nothing, for what the cluster says (docs/hosts.md)",
    )


def text(word: str) -> str:
    """Text that is used as such, not as the name of a file, for argparse: the words of a command line
    are bytes, and what is not UTF-8 in them no text."""
    try:
        word.encode()
    except UnicodeEncodeError as error:
        raise argparse.ArgumentTypeError(
            f"{word!r} is not UTF-8 at its character {error.start + 1}; give it in UTF-8"
        ) from error
    return word


def positive(text: str) -> int:
    """An integer from 1 to 2^31 - 1, for argparse."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """An integer from 0 to 2^31 - 1, for argparse."""
    return _whole(text, 0)


def _whole(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = -1
    if not least <= value < 2**31:
        raise argparse.ArgumentTypeError(
            f"{text[:20]} must be a whole number from {least} to 2147483647"
        )
    return value


def run(name: str) -> None:
    """Runs `experiments.<name>.main` on the command line and exits with its code."""
    _use_huge_pages()
    _exit(guarded(name, sys.argv[1:]))


def guarded(name: str, arguments: list[str]) -> int:
    """The exit code of a command, its expected errors printed as one line."""
    try:
        importlib.import_module(f"experiments.{name}").main(arguments)
        return 0
    except UserError as error:
        code, line = 2, f"error: {error}"
    except Diverged as error:
        code, line = 1, f"error: {error}"
    except Stopped as error:
        code, line = 128 + error.signal, str(error)
    except KeyboardInterrupt:
        code, line = 130, "interrupted"
    except BrokenPipeError:  # the reader of our output left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        joined = _joined()
        if joined is None:
            raise
        code, line = 1, traceback.format_exc()
        if joined.is_lost(error):
            said = str(error).splitlines()[0]
            line = (
                f"error: another process is gone ({said}); its own last lines say why; start all of "
                "them again, which continues a training from its newest checkpoint"
            )
    joined = _joined()
    print(line if joined is None else f"{joined.me()}{line}", file=sys.stderr)
    return code


def _joined():
    """experiments.devices.distributed where this process is one of several, else None."""
    module = sys.modules.get("experiments.devices.distributed")
    return module if module and module.several() else None


def _exit(code: int) -> None:
    if code == 0:
        sys.exit()
    joined = _joined()
    if joined:
        joined.leave()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # threads of a save that failed would be waited for, and wait for minutes


def main() -> None:
    """The console script `ddlm`."""
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if first in ("-h", "--help"):
        print("usage: ddlm COMMAND [--help] ...\n")
        for name, purpose in COMMANDS.items():
            print(f"  {name:<11} {purpose}")
        print("\nOther programs, python -m experiments.NAME, and examples: docs/guide.md")
        sys.exit(0)
    if first == "--version":
        print(f"ddlm {version('ddlm')}")
        sys.exit(0)
    if first not in COMMANDS:
        said = f"no command {first}" if first else "a command is missing"
        print(f"error: {said}; one of {', '.join(COMMANDS)}; see ddlm --help", file=sys.stderr)
        sys.exit(2)
    _use_huge_pages()
    _exit(guarded(sys.argv[1], sys.argv[2:]))


def _use_huge_pages() -> None:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or _TUNABLE in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{_TUNABLE}=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
