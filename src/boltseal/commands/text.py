"""Format pieces of messages."""

from __future__ import annotations

from typing import Final

from boltseal.errors import quote

MAX_CLEAN: Final = 2000


def clean(text: str) -> str:
    """Return text from files, hosts or registries on one line, with control characters escaped, cut at 2000 characters."""
    return quote(text, MAX_CLEAN)[1:-1]


def printable(text: str, kept: str = "") -> str:
    """Return text with its characters escaped that are not printable, such as control characters of a terminal. `kept`: not these."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in kept else ascii(each)[1:-1] for each in text)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun: `1 tag`, `0 tags`."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
