"""One run in several processes, on hosts of their own or not: what they agree on, and how they end.

Every process runs the same command, which `--distributed` tells where the others are. Arrays are spread
over the devices of all of them; files and the log are written by the first, checkpoints by all.
"""

import hashlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.errors import UserError
from experiments.streams import StandardOutput, log

_WAIT = 300  # seconds for all processes to be there
_NAMED = 4  # of the values that differ
_GRACE = 10  # seconds that a process which fails waits for the others
_LOST = ("gloo", "nccl", "connection", "unavailable", "coordination", "heartbeat", "barrier")


def start(arguments: Sequence[str] | None, stop_together: bool = False) -> None:
    """Nothing, once all processes are there. To be called before anything is computed.

    arguments: the first one's HOST:PORT, how many there are, and the number of this one; or nothing, for
    what the cluster says (TPU slices, Slurm, Open MPI, Kubernetes); None for a process that is alone.

    stop_together: SIGTERM is noted for `Signals.agree` and ends nothing. From here on the standard
    output of all but the first is dropped. UserError where the others cannot be found; exit code 1 where
    they do not come.
    """
    if arguments is None:
        return
    jax.config.update("jax_enable_preemption_service", stop_together)
    places, option = _places(arguments), " ".join(["--distributed", *arguments])
    if places.get("process_id") == 0:
        _check_port(option, places["coordinator_address"])
        log(f"waiting for {arguments[1]} processes at {arguments[0]}")
    # While it waits, jax hears no Ctrl-C, and at its own limit it aborts.
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    limit = threading.Timer(_WAIT, _give_up, [option])
    limit.daemon = True
    limit.start()
    try:
        jax.distributed.initialize(**places, initialization_timeout=_WAIT + 60)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{option}: the processes cannot connect to each other ({message}); give HOST:PORT of "
            "the first, how many there are, and the number of this one, from 0"
        ) from error
    finally:
        limit.cancel()
        signal.signal(signal.SIGINT, handler)
    _keep_standard_output()


def _keep_standard_output() -> None:
    """Python's is the first process's own. Libraries write past it, Gloo of every connection: they are
    sent to standard error."""
    number = os.dup(1) if is_first() else os.open(os.devnull, os.O_WRONLY)
    os.dup2(2, 1)
    encoding = getattr(sys.stdout, "encoding", "utf-8")
    stream = open(number, "w", encoding=encoding, errors="backslashreplace")  # noqa: SIM115, for good
    sys.stdout = StandardOutput(stream)


def _check_port(option: str, address: str) -> None:
    port = int(address.rsplit(":", 1)[1])
    try:
        with socket.create_server(("", port)):
            pass
    except OSError as error:
        raise UserError(
            f"{option}: port {port} of this machine cannot be used ({error.strerror or error}); unless "
            "another process has number 0 too, choose another one, the same for all"
        ) from error


def _give_up(option: str) -> None:
    print(
        f"error: {option}: some processes are missing after {_WAIT} seconds; start all of them, "
        "each with its own number and the HOST:PORT of the first",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _places(arguments: Sequence[str]) -> dict:
    if not arguments:
        return {}
    try:
        address, count, number = arguments
        host, port = address.rsplit(":", 1)
        count, number, port = int(count), int(number), int(port)
        if not (host and 0 < port < 2**16 and count > 0):
            raise ValueError
    except ValueError as error:
        raise UserError(
            f"--distributed {' '.join(arguments)}: expected HOST:PORT of the first process, how "
            "many there are, and the number of this one, from 0; or no values, to ask the cluster"
        ) from error
    if not 0 <= number < count:
        raise UserError(
            f"--distributed {' '.join(arguments)}: {count} processes have the numbers 0 to "
            f"{count - 1}, but this one has number {number}"
        )
    # Of the cluster nothing is asked then; every process has the devices that it sees.
    places = {"coordinator_address": address, "num_processes": count, "process_id": number}
    return places | {"cluster_detection_method": "deactivate"}


def several() -> bool:
    """Whether this process is one of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def me() -> str:
    """What the errors of this process begin with."""
    return "" if is_first() else f"process {jax.process_index()}: "


def is_first() -> bool:
    """Whether this process writes files and the log."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Nothing, once all processes have come here."""
    multihost_utils.sync_global_devices(name)


@contextmanager
def in_turn() -> Iterator[None]:
    """The first process does what is inside, then all others do: they find what it left, if they share
    its files."""
    if not is_first():
        wait_for_all("the first is done")
    try:
        yield
    finally:
        if is_first():
            wait_for_all("the first is done")


def anywhere(what: bool) -> bool:
    """Whether it is so in any process."""
    return bool(np.any(multihost_utils.process_allgather(np.array(what))))


def first_says(numbers: Sequence[int]) -> list[int]:
    """The numbers of the first process."""
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(numbers))))
    own = np.array(numbers if is_first() else [0] * count, np.int32)
    return [int(n) for n in multihost_utils.broadcast_one_to_all(own)]


def agree(values: Mapping[str, str]) -> None:
    """Nothing; UserError, in every process, that names which values are not the same in all. Processes
    may have different names; digests are all that is sent."""
    digests = {hashlib.sha256(f"{n}={v}".encode()).digest(): n for n, v in values.items()}
    largest = int(np.max(multihost_utils.process_allgather(np.int32(len(digests)))))
    own = np.zeros((largest, 8), np.uint32)
    own[: len(digests)] = np.frombuffer(b"".join(digests), np.uint32).reshape(-1, 8)
    of_all = multihost_utils.process_allgather(own).reshape(jax.process_count(), largest, 8)
    of_all = [{digest.tobytes() for digest in theirs} for theirs in of_all]
    other = [str(p) for p, theirs in enumerate(of_all) if theirs != of_all[0]]
    if not other:
        return
    names = [
        name for digest, name in digests.items() if not all(digest in theirs for theirs in of_all)
    ]
    within = tuple(f"{name}." for name in names)
    names = [name for name in names if not name.startswith(within)]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    different = ", ".join(names[:_NAMED]) or "what this process does not have"
    plural = "es" if len(other) > 1 else ""
    raise UserError(
        f"{different}{more}: not the same in process{plural} {', '.join(other)} of {len(of_all)} as "
        "in the first; give all processes the same command, files and versions"
    )


def is_lost(error: Exception) -> bool:
    """Whether the error says that another process is gone: jax says so in its text alone."""
    message = str(error).lower()
    return isinstance(error, jax.errors.JaxRuntimeError) and any(word in message for word in _LOST)


def leave() -> None:
    """Nothing, once the others leave too, or after a moment: they may fail of the same as this process,
    or wait for it."""
    ending = threading.Thread(target=jax.distributed.shutdown, daemon=True)
    ending.start()
    ending.join(_GRACE)
