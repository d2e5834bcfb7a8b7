"""The marker by which `make test` leaves out cases that others stand for."""

from types import SimpleNamespace

import pytest
from conftest import _left_out


def case(name, *words, marked=True):
    """A collected case of a marked test."""
    marker = SimpleNamespace(args=words) if marked else None
    return SimpleNamespace(
        nodeid=f"file::test{name}",
        get_closest_marker=lambda _: marker,
        config=SimpleNamespace(args=["tests"]),
    )


def test_cases_without_a_word_of_the_marker_are_left_out_and_unmarked_ones_are_not():
    cases = [case(f"[{name}]", "udlm", "mdlm-cos") for name in ("mdlm", "mdlm-cosine", "udlm-T4")]
    assert _left_out([*cases, case("[mdlm]", marked=False)]) == cases[:1]
    whole = case("")
    assert _left_out([whole]) == [whole]


def test_a_word_that_no_case_has_is_an_error():
    with pytest.raises(pytest.UsageError, match="no case has"):
        _left_out([case("[mdlm]", "mdlm", "sedd")])
