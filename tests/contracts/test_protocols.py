"""Protocols that another database, another blob store or another host implements."""

from __future__ import annotations

import inspect
from types import ModuleType

import pytest

from boltseal.notify import outbox
from boltseal.server.storage.blobs import protocol as blobs
from boltseal.server.storage.coordination import protocol as coordination
from boltseal.server.storage.metadata import protocol as metadata
from boltseal.server.storage.metadata import sql, sql_units

MOST_METHODS = 5


@pytest.mark.parametrize(
    "module", [blobs, coordination, metadata, sql_units, sql, outbox], ids=lambda module: module.__name__
)
def test_a_protocol_has_at_most_five_methods(module: ModuleType) -> None:
    """A protocol of the storage has at most five methods, inherited ones included, so that each caller needs most of it."""
    protocols = [each for _, each in inspect.getmembers(module, _is_own_protocol) if each.__module__ == module.__name__]
    sizes = {each.__name__: len(inspect.getmembers(each, _is_method)) for each in protocols}

    assert protocols
    assert {name: size for name, size in sizes.items() if size > MOST_METHODS} == {}


def _is_own_protocol(thing: object) -> bool:
    return inspect.isclass(thing) and getattr(thing, "_is_protocol", False)


def _is_method(thing: object) -> bool:
    return inspect.isfunction(thing) and not thing.__name__.startswith("_")
