"""The command line: `ddlm train|sample|evaluate ...`, the same as `python -m experiments.train ...`.

Nothing heavy is imported here: on Linux the process first replaces itself by one whose malloc uses
huge pages, which makes training on CPU about a fifth faster (docs/measurements.md).
"""

import argparse
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from experiments.docstring import first_line
from experiments.errors import Failed, Stopped, UserError, shortened
from experiments.files import check_apart, descriptor, why_unwritable
from experiments.program_cache import keep_programs
from experiments.streams import NAME, complain, flush, open_missing, standard_output
from experiments.streams import log as log

GROUPS = {
    "Make a model": ("prepare", "train", "import", "plan"),
    "Use it": ("sample", "trace", "compress", "decompress", "export"),
    "Measure it": ("evaluate", "score", "quality", "compare", "scaling", "plot"),
    "Look around": ("configs", "runs", "doctor", "completion"),
}
COMMANDS = [name for names in GROUPS.values() for name in names]
_EXAMPLES = """
Examples:
  ddlm train --config configs/sotu/quickstart.py --workdir runs/a
  ddlm sample --workdir runs/a --prompt "the state of"
  ddlm evaluate --workdir runs/a --split test

ddlm COMMAND --help lists the options of a command. docs/guide/ has more examples, and describes
other programs (python -m experiments.NAME)."""
_COMPILE_NOTHING = ("import", "export", "configs", "runs", "doctor", "completion", "plot", "trace")
_TUNABLE = "glibc.malloc.hugetlb"


class Parser(argparse.ArgumentParser):
    """Reports a mistake as UserError, which is one line, instead of usage and exit.

    summary: the sentence that its help begins with.
    """

    summary = ""

    def format_help(self) -> str:
        """The help: what the command does, how it is called, its options, examples."""
        return f"{self.summary}\n\n{super().format_help()}"

    def error(self, message: str) -> NoReturn:
        """Never returns: UserError with the message."""
        raise UserError(f"{message}; see {self.prog} --help")

    def print_help(self, file: TextIO | None = None) -> None:
        """Nothing; the help is written, or an OSError raised, which argparse drops."""
        print(self.format_help(), end="", file=cast(Any, file), flush=True)

    def parse_known_args(
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """As argparse does; UserError where a file to be written is one that another option names."""
        parsed, rest = super().parse_known_args(args, namespace)
        pairs = {True: [], False: []}
        for action in self._actions:
            value = getattr(parsed, action.dest, None)
            name = action.option_strings[-1] if action.option_strings else action.metavar
            for word in value if isinstance(value, list) else [value]:
                if isinstance(word, str):
                    pairs[action.type is output].append((name or action.dest, word))
        check_apart(pairs[True], pairs[False])
        return parsed, rest


def parser(name: str, description: str | None) -> Parser:
    """A parser for the command `name` with the options that several commands share left out.
    description: what its help says before the options, and, from a line "Examples:" on, after them."""
    before, line, examples = (description or "").partition("\nExamples:\n")
    summary, _, details = before.partition("\n")
    made = Parser(
        prog=f"ddlm {name}" if name in COMMANDS else f"python -m experiments.{name}",
        description=details.strip("\n") or None,
        epilog=f"examples:\n{examples.rstrip()}" if line else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.summary = summary
    return made


def add_set(options: argparse.ArgumentParser) -> None:
    """Nothing; the parser has the option --set, a list of overrides."""
    options.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="override a setting, such as optimizer.schedule.peak_lr=1e-3; may be repeated",
    )


def add_distributed(options: argparse.ArgumentParser) -> None:
    """The option for `experiments.devices.distributed.start`."""
    options.add_argument(
        "--distributed",
        nargs="*",
        metavar="WHERE",
        help="run as one of several processes: HOST:PORT of the first, how many there are, and the "
        "number of this one; without values, ask the cluster (docs/hosts.md)",
    )


def output(text: str) -> str:
    """The name of a file to be written, for argparse: what cannot be one is rejected before any work."""
    reason = why_unwritable(text)
    if reason:
        raise argparse.ArgumentTypeError(f"{text or repr(text)} cannot be written: {reason}")
    return text


def add_force(options: argparse.ArgumentParser) -> None:
    """The option for `experiments.files.check_new`."""
    options.add_argument("--force", action="store_true", help="replace the --out file if it exists")


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


def content(path: str) -> str:
    """The text of the file."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: cannot be read ({error})") from error


def positive(text: str) -> int:
    """An integer from 1 to 2^31 - 1, for argparse."""
    return _whole(text, 1)


def natural(text: str) -> int:
    """An integer from 0 to 2^31 - 1, for argparse."""
    return _whole(text, 0)


def above_zero(text: str) -> float:
    """A number above 0 and finite, for argparse."""
    with suppress(ValueError):
        if 0 < float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"{text[:20]} must be a number above 0, such as 10 or 1e13")


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
    open_missing()
    _run(name, sys.argv[1:])


def _run(name: str, arguments: list[str]) -> NoReturn:
    _use_huge_pages()
    if name not in _COMPILE_NOTHING:
        keep_programs()
    _exit(guarded(name, arguments))


def guarded(name: str, arguments: list[str]) -> int:
    """The exit code of a command, its expected errors printed as one line."""
    return _bounded(
        lambda: importlib.import_module(f"experiments.{name}").main(arguments),
        arguments,
        name != "train",  # what it says is in metrics.jsonl too
    )


def _bounded(command, arguments: list[str], log_counts: bool = True) -> int:
    """The exit code of what `command` does; the one place where errors end as a line, whatever raised
    them. An exception that is none of the expected is a mistake of ours, and goes on. log_counts:
    whether a line of the log that could not be written is an error in the end."""
    output = None
    # What is printed must not stand between the lines of a file that is standard output itself.
    elsewhere = any(descriptor(str(word).split("=", 1)[-1]) == 1 for word in arguments)
    try:
        with standard_output(elsewhere) as output:
            command()
        return 2 if output.lost and log_counts else 0
    except (Exception, KeyboardInterrupt) as error:
        code, line = _expected(error) or _of_several(error)
        reported = output is not None and output.lost and _of_output(error)
    joined = _joined()
    if line and not reported:
        complain(line if joined is None else f"{joined.me()}{line}")
    return code


def _of_output(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.filename == NAME


def _of_system(error: OSError) -> str:
    """What the operating system says, and of what."""
    message = error.strerror or shortened(str(error)) or type(error).__name__
    if _of_output(error):
        return f"{NAME} cannot be written ({message})"
    return message if error.filename is None else f"{error.filename}: {message}"


def _expected(error: BaseException) -> tuple[int, str] | None:
    """(exit code, line) of an error that is not a mistake of ours, else None."""
    match error:
        case UserError():
            return 2, f"error: {error}"
        case Failed():
            return 1, f"error: {error}"
        case Stopped():
            return 128 + error.signal, str(error)
        case KeyboardInterrupt():
            return 130, "interrupted"
        case BrokenPipeError():  # the reader of our output left, as `| head` does
            return 141, ""
        case OSError():
            return 2, f"error: {_of_system(error)}"
        case UnicodeError():
            return 2, f"error: text that cannot be encoded or decoded ({shortened(str(error))})"
    # XLA's errors tell their status in their text alone.
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        message = shortened(str(error)) or "no more is given"
        return 2, (
            f"error: out of memory ({message}); lower --batch-size (of training: train.batch_size, or "
            "raise train.accumulation), the length, or the size of the model"
        )
    return None


def _of_several(error: BaseException) -> tuple[int, str]:
    """(exit code, line) of an unexpected error in one of several processes, which may be of another
    one's end; in a process that is alone it is raised."""
    joined = _joined()
    if joined is None:
        raise error
    if not joined.is_lost(error):
        return 1, "".join(traceback.format_exception(error)).rstrip("\n")
    message = str(error).splitlines()[0]
    return 1, (
        f"error: another process is gone ({message}); its own last lines say why; start all of "
        "them again, which continues a training from its newest checkpoint"
    )


def _joined():
    """experiments.devices.distributed where this process is one of several, else None."""
    module = sys.modules.get("experiments.devices.distributed")
    return module if module and module.several() else None


def _exit(code: int) -> NoReturn:
    flush()
    if code == 0:
        sys.exit()
    joined = _joined()
    if joined:
        joined.leave()
    os._exit(code)  # threads of a save that failed would be waited for, and wait for minutes


def main() -> None:
    """The console script `ddlm`."""
    open_missing()
    first, rest = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if first in COMMANDS:
        _run(first, rest)
    code = _bounded(lambda: _about(first), [])
    flush()
    sys.exit(code)


def _about(first: str) -> None:
    """Nothing; what is asked for besides the commands is printed."""
    if first == "--version":
        print(f"ddlm {version('ddlm')}")
    elif first in ("-h", "--help"):
        print("usage: ddlm COMMAND [--help] ...")
        for group, names in GROUPS.items():
            print(f"\n{group}:")
            for name in names:
                print(f"  {name:<11} {first_line(Path(__file__).with_name(f'{name}.py'))}")
        print(_EXAMPLES)
    else:
        near = difflib.get_close_matches(first, COMMANDS, 1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        message = f"no command {first}{hint}" if first else "a command is missing"
        raise UserError(f"{message}; one of {', '.join(COMMANDS)}; see ddlm --help")


def _use_huge_pages() -> None:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or _TUNABLE in tunables:
        return
    os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{_TUNABLE}=1"]))
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
