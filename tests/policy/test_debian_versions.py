"""The order of Debian package versions is that of dpkg."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boltseal.policy.debian_versions import is_older

ORDERED = ["1.0~rc1-1", "1.0-1", "1.0-1+deb12u1", "1.0-1+deb12u2", "1.0-1+deb12u10", "1.0a-1", "1.0.1-1", "1:0.5-1"]
VERSIONS = st.from_regex(r"(?:[0-9]{1,2}:)?[0-9][0-9a-zA-Z.+~]{0,6}(?:-[0-9a-zA-Z.+~]{1,5})?", fullmatch=True)


def dpkg_is_older(version: str, other: str) -> bool:
    """Return what dpkg says."""
    return subprocess.run(["dpkg", "--compare-versions", version, "lt", other], check=False).returncode == 0


@pytest.mark.parametrize("at", range(len(ORDERED) - 1))
def test_a_security_fix_is_newer(at: int) -> None:
    """A version is older than the next one of an ordered list, and not the other way round."""
    assert is_older(ORDERED[at], ORDERED[at + 1])
    assert not is_older(ORDERED[at + 1], ORDERED[at])
    assert not is_older(ORDERED[at], ORDERED[at])


@settings(max_examples=100, deadline=None)
@given(VERSIONS, VERSIONS)
def test_the_order_is_that_of_dpkg(version: str, other: str) -> None:
    """Of any two valid versions the older one is that of `dpkg --compare-versions`."""
    assert is_older(version, other) == dpkg_is_older(version, other)


def test_numbers_of_any_length_are_compared() -> None:
    """A number with more digits than Python converts to an `int` is newer than a shorter one, whatever zeros precede it."""
    long = "1" * 5000

    assert is_older("9", long)
    assert not is_older(long, "9")
    assert not is_older(f"00{long}", long)


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_text_has_a_place_in_the_order(version: str, other: str) -> None:
    """Of any two texts, also invalid versions, at most one is older."""
    assert not (is_older(version, other) and is_older(other, version))


def test_numbers_with_thousands_of_digits_are_compared() -> None:
    """A number of more digits than Python converts is ordered by its value, without an error."""
    assert is_older("1." + "8" * 5000, "1." + "9" * 5000)
    assert is_older("1." + "0" * 5000 + "2", "1.10")
