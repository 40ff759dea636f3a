"""Which engines or clusters `ps` lists containers of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boltseal.commands.ps import ContainerFilter
from boltseal.errors import Invalid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kube": "prod", "hosts": ("ssh://web1",)}, "--kube can't be combined with --host or --compose"),
        ({"kube": "prod", "compose": Path("compose.yaml")}, "--kube can't be combined with --host or --compose"),
        ({"namespace": "shop"}, "--namespace needs --kube"),
    ],
)
def test_contradicting_places_are_refused(arguments: dict[str, Any], message: str) -> None:
    """A cluster together with an engine is refused."""
    with pytest.raises(Invalid, match=message):
        ContainerFilter(**arguments)
