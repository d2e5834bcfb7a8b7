"""Test settings: CPU, strict ranks, a shared compilation cache, and the golden numbers."""

import ctypes
import gc
import math
import os
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
_CACHE = Path(tempfile.gettempdir()) / f"ddlm-tests-{os.getuid()}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # a tenth of lowering
os.environ.setdefault("DDLM_CACHE", str(_CACHE / "data"))
# Most programs of tests run for less time than they compile: without optimization the suite takes half
# the time. What runs for longer asks for the fixture `optimized`. XLA rejects flags that it does not
# know, and the others are not promised to later versions.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_CHEAP = "--xla_backend_optimization_level=1"
if version("jaxlib").startswith("0.10."):
    _CHEAP += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    _CHEAP += " --xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE"
os.environ.setdefault("XLA_FLAGS", _CHEAP)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")

HERE = Path(__file__).parent
# Settings of the smallest run of a config of configs/sotu that goes through all that a run does.
SMALL = (
    "model.num_layers=1", "model.width=16", "model.num_heads=2", "model.condition_width=8",
    "train.batch_size=4", "train.num_steps=2", "train.log_every=1", "train.eval_every=1000",
    "train.checkpoint_every=2", "optimizer=AdamW", "optimizer.schedule.warmup_steps=0",
    "evaluation.max_sequences=4",
)  # fmt: skip
GOLDEN = HERE / "golden"  # README.md there says what each array is
REFERENCE = Path(os.environ.get("DDLM_REFERENCE", GOLDEN))


def on_devices(count: int) -> dict[str, str]:
    """The environment of a process with as many virtual CPU devices, compiled as here."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def reference(name: str) -> dict[str, np.ndarray]:
    """The arrays of `name`.npz in $DDLM_REFERENCE, or in tests/golden where that has no such file."""
    file = next(f / f"{name}.npz" for f in (REFERENCE, GOLDEN) if (f / f"{name}.npz").is_file())
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


# What may be skipped, and what the reason of a skip says then: extras that are not installed, and
# hardware or a system that is not there.
SKIPS = {"torch": "'torch'", "transformers": "'transformers'", "libtpu": "libtpu", "Linux": "/proc"}


def _declared(report):
    """The report; a skip whose reason is not in SKIPS has failed."""
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2]
        if not any(said in reason for said in SKIPS.values()):
            report.outcome, report.longrepr = "failed", f"skipped, which hides a promise: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    return _declared((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    return _declared((yield))


def pytest_terminal_summary(terminalreporter):
    """How many tests were skipped, and for want of what."""
    reasons = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    counts = {name: sum(said in reason for reason in reasons) for name, said in SKIPS.items()}
    without = ", ".join(f"{name} {n}" for name, n in counts.items() if n) or "nothing"
    terminalreporter.write_line(f"skipped {len(reasons)} for want of: {without}")


# Files that take longest, which begin first, so that no worker is left alone with one at the end.
SLOW = [
    "methods", "sampling_options", "samplers", "ranking", "distributed", "fault_injection", "simplex",
    "processes", "infilling", "programs", "models", "notebooks", "precision", "guidance", "extension",
    "classifier", "edlm", "positions", "recovery", "masked_samplers", "discrete_guidance", "meshes",
    "compress", "labels", "initial", "motifs", "import", "published", "encoders", "conversion",
    "pinned", "orders", "first_hitting", "locks",
]  # fmt: skip


def pytest_addoption(parser):
    parser.addoption(
        "--representatives", action="store_true", help="of tests with many cases one of each kind"
    )


def _left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """Cases of which another with the same mechanism stands for: their names have none of the words of
    the marker `representatives`. Each word must be in a name, so that none is forgotten."""
    words, cases = {}, {}
    for item in items:
        if marker := item.get_closest_marker("representatives"):
            test = item.nodeid.partition("[")[0]
            words[test] = marker.args
            cases.setdefault(test, []).append(item)
    left_out = []
    for test, of_test in cases.items():
        names = [item.nodeid.partition("[")[2][:-1] for item in of_test]
        lost = [word for word in words[test] if not any(word in name for name in names)]
        if lost and not any("::" in a for a in of_test[0].config.args):
            raise pytest.UsageError(f"{test}: no case has {lost} in its name")
        left_out += [
            item
            for item, name in zip(of_test, names, strict=True)
            if not any(word in name for word in words[test])
        ]
    return left_out


def pytest_collection_modifyitems(config, items):
    """Slow files first; `make test` keeps this order, and leaves out what others stand for."""
    place = {f"test_{name}.py": n for n, name in enumerate(SLOW)}
    items.sort(key=lambda item: place.get(item.path.name, len(SLOW)))
    left_out = set(_left_out(items))
    if config.getoption("representatives"):
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


def pytest_collection_finish(session):
    """What lives to the end is not looked through for garbage again, and garbage is sought less often:
    it took 8 % of the CPU seconds of test_ranking.py, and takes 2 % of such tests now."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


def _resident() -> float:
    """Bytes of memory of this process, or infinity where the system does not say."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.is_file() else math.inf
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Compiled programs are dropped where they have become a gigabyte and more, which glibc keeps unless
    it is asked to give it back. The next module needs the small ones again: half a second a module."""
    yield
    if _resident() < 1.7e9:
        return
    jax.clear_caches()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


@pytest.fixture(scope="session", autouse=True)
def _without_pictures():
    """Trainings draw no curves at their end, as without matplotlib: a second each."""
    from experiments import curves

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(curves, "find_spec", lambda name: None)
        yield


@pytest.fixture
def optimized():
    """Programs compiled in this test are optimized."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """Double precision, for the comparison with exact numbers."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def rejected():
    """rejected(function, ...) is the one line that it rejects with."""
    from experiments.errors import UserError

    def call(function, *arguments):
        with pytest.raises(UserError) as caught:
            function(*arguments)
        assert str(caught.value).isprintable() and len(str(caught.value)) < 5000
        return str(caught.value)

    return call


@pytest.fixture(scope="session")
def table():
    """The oracle's table of the first toy."""
    from oracle import Table

    return Table()
