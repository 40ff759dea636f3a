"""Split many items into batches that one statement or one transaction can take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

IN_AT_ONCE: Final = 500
"""Digests in one query; SQLite accepts 32,766 values."""

T = TypeVar("T")


def batches(items: Iterable[T], size: int) -> Iterator[tuple[T, ...]]:
    """Yield the items in tuples of `size`; the last one may be shorter. `itertools.batched` needs Python 3.12."""
    remaining = iter(items)
    while batch := tuple(islice(remaining, size)):
        yield batch
