"""All error classes of the package."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import boltseal
from boltseal.errors import BoltsealError


def every_error_class() -> list[type[BoltsealError]]:
    """Return every subclass of BoltsealError, after importing every module of the package."""
    for module in pkgutil.walk_packages(boltseal.__path__, "boltseal."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)

    def below(cls: type[BoltsealError]) -> Iterator[type[BoltsealError]]:
        for child in cls.__subclasses__():
            yield child
            yield from below(child)

    return sorted(set(below(BoltsealError)), key=lambda cls: f"{cls.__module__}.{cls.__qualname__}")
