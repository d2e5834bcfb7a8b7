"""Tests are skipped for want of an extra or of hardware alone, and the count is told."""

pytest_plugins = ["pytester"]

DECLARED = """
import pytest

@pytest.mark.skipif(True, reason="libtpu is not installed")
@pytest.mark.parametrize("n", [1, 2])
def test_on_tpus(n): pass

def test_here(): pass
"""
OTHERS = """
import pytest

@pytest.mark.skip(reason="flaky")
def test_marked(): pass

def test_amid():
    pytest.skip("the file is not here")
"""
AT_COLLECTION = """
import pytest

pytest.importorskip("no_such_module")

def test_it(): pass
"""


def test_skips_are_counted_and_those_for_want_of_nothing_declared_fail(pytester):
    pytester.makepyfile(declared=DECLARED, others=OTHERS, collected=AT_COLLECTION)
    run = lambda *names: pytester.runpytest_inprocess(  # noqa: E731
        "-p", "conftest", "--continue-on-collection-errors", *(f"{name}.py" for name in names)
    )
    good, bad = run("declared"), run("others", "collected")
    assert good.parseoutcomes() == {"passed": 1, "skipped": 2}
    assert "skipped 2 for want of: libtpu 2" in good.stdout.str()
    assert bad.parseoutcomes() == {"failed": 1, "errors": 2}
    for reason in ("flaky", "the file is not here", "could not import 'no_such_module'"):
        assert f"skipped, which hides a promise: Skipped: {reason}" in bad.stdout.str()
    assert "skipped 0 for want of: nothing" in bad.stdout.str()
