"""Loads modules when they are first used, by name: the only place of the package that imports on demand.

A module that few calls need, and that takes long to import, is declared at the top of the module that uses it:

    if TYPE_CHECKING:
        from boltseal.client import state
    else:
        state = deferred("boltseal.client.state")

Type checker and import linter see the import; Python imports the module at the first access to one of its names.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any


def load(name: str) -> ModuleType:
    """Import a module by its dotted name. Raises: ImportError."""
    return import_module(name)


def deferred(name: str) -> Any:
    """Return an object with the names of a module, which is imported at the first access to one of them."""
    return _Deferred(name)


class _Deferred:
    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        """Import the module and return its attribute. Python calls this once for each name, since the value is stored."""
        value = getattr(load(self._module), name)
        setattr(self, name, value)
        return value
