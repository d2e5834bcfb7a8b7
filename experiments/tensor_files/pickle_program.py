"""What a pickle describes, without doing what it says.

A pickle is a program for a machine with a stack. This one follows the instructions that torch writes
(protocol 2) and makes containers, numbers and text. It looks up no name and calls nothing: a global is a
`Named`, and what it would be called with a `Call`, which is never made. Settings of objects (BUILD) are
passed over. Nothing here recurses, so nesting costs what its instructions cost, and both the program and
the number of its instructions are limited.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

from experiments.tensor_files.stored import Unsupported

LONGEST = 64 << 20  # bytes of a program
MOST_INSTRUCTIONS = 5_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """A global of another program: "module name"."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """What a pickle would have called: its name ("" where that is no global), and with what."""

    name: str
    arguments: tuple


@dataclass(frozen=True, slots=True, eq=False)
class Persistent:
    """What stands outside of the pickle, by how the pickle names it."""

    name: Any


_DICTIONARIES = (
    "collections OrderedDict",
    "collections defaultdict",
    "__builtin__ dict",
    "builtins dict",
)
_CONSTANTS = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
}
_VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINUNICODE", "BINSTRING",
    "SHORT_BINSTRING",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def described(program: bytes) -> Any:
    """What the program would leave: containers, numbers, text, `Named`, `Call` and `Persistent`.
    ValueError where it is damaged, too long, or uses what torch does not write."""
    if len(program) > LONGEST:
        raise Unsupported(f"its pickle has {len(program):,} bytes; {LONGEST:,} are supported")
    machine = _Machine()
    try:
        for count, (code, argument, _) in enumerate(pickletools.genops(program)):
            if count == MOST_INSTRUCTIONS:
                raise Unsupported(f"its pickle has more than {MOST_INSTRUCTIONS:,} instructions")
            machine.follow(code.name, argument)
        return machine.stack.pop()
    except Unsupported:
        raise
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        what = "it takes what is not there" if isinstance(error, LookupError) else error
        raise ValueError(f"its pickle is damaged: {what}") from None


class _Machine:
    """The stack, the marks on it, and what was put aside."""

    def __init__(self):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """Nothing; one instruction was followed. ValueError, IndexError or KeyError for a wrong one."""
        stack = self.stack
        if name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name]())
        elif name == "MARK":
            self.marks.append(len(stack))
        elif name == "POP":
            stack.pop()
        elif name not in ("PROTO", "STOP"):
            self._combine(name, argument)

    def _combine(self, name: str, argument: Any) -> None:
        """An instruction that makes one thing of several."""
        stack = self.stack
        if name in _TUPLES:
            stack.append(tuple(self._taken(_TUPLES[name])))
        elif name == "TUPLE":
            stack.append(tuple(self._marked()))
        elif name == "GLOBAL":
            stack.append(Named(argument))
        elif name == "BINPERSID":
            stack.append(Persistent(stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            stack.append(_call(*self._taken(2)))
        elif name == "BUILD":
            self._taken(1)
        elif name in ("APPEND", "APPENDS"):
            items = self._taken(1) if name == "APPEND" else self._marked()
            _extend(stack[-1], items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._taken(2) if name == "SETITEM" else self._marked()
            _update(stack[-1], items)
        else:
            raise Unsupported(f"its pickle has the instruction {name}, which torch does not write")

    def _taken(self, count: int) -> list[Any]:
        """The upper things of the stack, which are taken from it."""
        taken = self.stack[-count:]
        if len(taken) < count:
            raise IndexError
        del self.stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        """All above the last mark, which is taken from the stack."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken


def _call(function: Any, arguments: Any) -> Any:
    if not isinstance(arguments, tuple):
        raise ValueError("a call without a tuple of arguments")
    name = function.name if isinstance(function, Named) else ""
    empty = all(isinstance(argument, Named) for argument in arguments)  # a defaultdict has a class
    return {} if name in _DICTIONARIES and empty else Call(name, arguments)


def _extend(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, Call):
        raise ValueError("items for what is no list")


def _update(target: Any, items: list[Any]) -> None:
    """The items, keys and values in turn, are in the dictionary. Only text becomes a key: others, which
    may be made to collide, or nested without end, stand as a key that equals none."""
    if len(items) % 2:
        raise ValueError("a key without a value")
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key, str) and key in target:
                raise ValueError(f"{key} stands twice")
            target[key if isinstance(key, str) else object()] = value
    elif not isinstance(target, Call):
        raise ValueError("entries for what is no dictionary")
