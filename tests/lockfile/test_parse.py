"""A lock from a checked-out project is untrusted: an invalid one is refused with a one-line reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.lockfile import parse
from boltseal.lockfile.document import LockInvalid
from boltseal.lockfile.parse import parse_lock
from tests.lockfile.locks import KEY, digest

SEEN = "first_seen = 2026-11-24T18:00:00Z"
GOOD = f'version = 1\n[[image]]\nreference = "app:1"\ndigest = "{digest(1)}"\n{SEEN}\n'
LOCAL = f'version = 1\n[[image]]\nreference = "app:1"\nlocal_build = true\n{SEEN}\n'


PIN = f"{{ file = 'a', at = 'b', digest = '{digest(1)}' }}"


def refusal(text: str | bytes) -> str:
    with pytest.raises(LockInvalid) as refused:
        parse_lock(text.encode() if isinstance(text, str) else text)
    message = refused.value.message

    assert message.startswith("boltseal.lock: ")
    assert message.isprintable()
    assert message.isascii()
    return message.removeprefix("boltseal.lock: ")


def error_message(raw: bytes) -> str:
    """Return the error message, or "" if the lock is valid."""
    try:
        parse_lock(raw)
    except LockInvalid as refused:
        return refused.message
    return ""


def test_a_lock_written_by_hand_is_read() -> None:
    """A lock written by hand is read: order, spaces and a byte order mark do not matter."""
    found = parse_lock(f"\ufeff# mine\n{GOOD}".encode())

    assert str(found.images[0].reference) == "docker.io/library/app:1"
    assert parse_lock(LOCAL.encode()).images[0].local_build


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xff\xfe", "not UTF-8 at byte 0"),
        ("version = ", "not TOML: "),
        ("version = 1\na = " + "[" * 100_000, "not TOML"),
        ("version = 1\na = 2026-13-45T00:00:00Z", "not TOML"),
        ("", "it has no version: the file may be empty or truncated; expected `version = 1`"),
        ("version = true", 'version is "True"; expected 1'),
        ("version = 0", 'version is "0"; expected 1'),
        ("version = 4", "it has version 4, but this boltseal reads up to 3; use a newer boltseal"),
        ("version = 2\nrendered = []", 'unknown key "rendered"'),
        (
            "version = 3\nrendered = [{tool = 'make', path = 'x'}]",
            'rendered 1: tool is "make"; expected one of compose',
        ),
        ("version = 3\nrendered = [{tool = 'helm'}]", "rendered 1: path is missing"),
        ("version = 1\npins = []", 'unknown key "pins"'),
        (f"version = 2\npins = [{PIN}, {PIN}]", 'pins: "a" has two at "b"; remove one of them'),
        (f"version = 2\npins = [{PIN.replace('at', 'to')}]", 'pins 1: unknown key "to"'),
        (f"version = 2\npins = [{PIN.replace('sha256', 'sha')}]", "pins 1: "),
        (f"version = 2\npins = [{PIN.replace('}', ', number = 0}')}]", "pins 1: number is 0; expected 1 or more"),
        (f"version = 2\npins = [{PIN.replace('}', ', replaced = 1}')}]", 'pins 1: replaced is "1"; expected a text'),
        (GOOD.replace("app:1", f"app:1@{digest(1)}"), "has a tag and a digest, which needs version 2"),
        ("version = 1\nrun = 'x'", 'unknown key "run"'),
        ("version = 1\nimage = 3", "image is not a list of tables"),
        ("version = 1\nimage = [3]", "image is not a list of tables"),
        ("version = 1\nkeys = 3", "keys is not a table"),
        ("version = 1\n[keys]\na = 3", 'keys: "a" is not a ledger key'),
        (f"version = 1\n[keys]\na = '{KEY} x'", 'keys: "a" is not a ledger key'),
        (f"version = 1\n[keys]\na = '{KEY}{'A' * 5000}'", 'keys: "a" is not a ledger key'),
        (GOOD + "url = 'x'", 'image 1: unknown key "url"; known keys: reference, '),
        (GOOD + "media_type = 3", 'image 1: media_type is "3"; expected a text'),
        (GOOD + f"media_type = '{'x' * 5000}'", "image 1: media_type is "),
        (GOOD + "bad" * 3 + " = 1\n" + "bad" * 3 + " = 1", "not TOML"),
        (GOOD + "written = ['a', 3]", 'image 1: written is "3"; expected a text of at most 4096'),
        (GOOD + "used = ['a']", "image 1: used is not a list of tables"),
        (GOOD + "used = [{ file = 'a' }]", "image 1: used: at is missing"),
        (GOOD + "used = [{ file = 'a', at = 3 }]", 'image 1: used: at is "3"; expected a text'),
        (GOOD + "platforms = [{ platform = 'linux' }]", "image 1: platforms: manifest is missing"),
        (GOOD + "platforms = [{ platform = 'linux', manifest = 'x' }]", 'image 1: "x" is not a digest'),
        (GOOD + "entry = -1", "image 1: entry is -1; expected the index of a ledger entry"),
        (GOOD + "entry = true", 'image 1: entry is "True"; expected a whole number'),
        (GOOD + "local_build = true", "image 1: expected either a digest or local_build = true"),
        (LOCAL.replace("true", "false"), "image 1: expected either a digest or local_build = true"),
        (GOOD.replace("app:1", "app"), "docker.io/library/app can't be locked"),
        (GOOD.replace("app:1", "App:1\\u001b[2J"), 'image 1: repository name "App" must be lower-case'),
        (GOOD.replace("app:1", f"app@{digest(2)}"), "image 1: docker.io/library/app@"),
        (GOOD.replace("00Z", "00"), "image 1: first_seen is 2026-11-24 18:00:00; expected a time such as"),
        (GOOD.replace("00Z", "00.5Z"), "image 1: first_seen is 2026-11-24 18:00:00.500000+00:00; expected"),
        (GOOD.replace("2026-11-24T18:00:00Z", "0001-01-01T00:00:00+14:00"), "image 1: first_seen is 0001"),
        (GOOD.replace("2026-11-24T18:00:00Z", "2026-11-24"), 'image 1: first_seen is "2026-11-24"; expected a time'),
        (GOOD + GOOD.removeprefix("version = 1\n"), "docker.io/library/app:1 occurs twice"),
    ],
)
def test_an_invalid_lock_is_refused_with_the_position(text: str | bytes, message: str) -> None:
    """An invalid lock is one printable line with position and expected value."""
    assert message in refusal(text)


def test_two_spellings_of_one_image_are_duplicates() -> None:
    """Docker's short and long spelling of one image are duplicates, so that neither can hide the other."""
    again = GOOD.removeprefix("version = 1\n").replace('"app:1"', '"index.docker.io/app:1"')

    assert "docker.io/library/app:1 occurs twice" in refusal(GOOD + again)


@pytest.mark.parametrize("mark", ["<<<<<<< HEAD", ">>>>>>> theirs", "<<<<<<<"])
def test_a_merge_conflict_is_reported_with_its_line(mark: str) -> None:
    """A merge conflict in a lock has a message of its own with the line."""
    assert "line 2 is a merge conflict" in refusal(f"version = 1\n{mark}\n")


def test_a_huge_file_is_not_read() -> None:
    """A lock over the size limit is refused before it is parsed."""
    assert "expected at most 33554432" in refusal(b" " * (parse.MAX_LOCK_BYTES + 1))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    """Any bytes are read as a lock or refused, and no other exception is raised."""
    assert error_message(raw).isprintable()


@given(st.data())
def test_a_lock_with_one_part_changed_is_read_or_refused(data: st.DataObject) -> None:
    """A lock with any damaged part is read or refused with a message."""
    text = GOOD + "used = [{ file = 'a', at = 'b' }]\n"
    at = data.draw(st.integers(0, len(text)))
    changed = text[:at] + data.draw(st.text(max_size=5)) + text[at + data.draw(st.integers(0, 5)) :]

    assert error_message(changed.encode()).isprintable()
