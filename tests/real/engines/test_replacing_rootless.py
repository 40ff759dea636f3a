"""`boltseal pull --replace` with Podman of a user without root, run by that user, and by root of the same host."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.registry import Registry
from tests.real.rootless import Rootless, rootless_podman

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]


@pytest.fixture
def rootless(registry: Registry, repository: str, tmp_path: Path) -> Iterator[Rootless]:
    """A user's Podman."""
    with rootless_podman(registry, repository, tmp_path) as made:
        yield made


@pytest.mark.parametrize("as_user", [True, False], ids=["by the user", "by root"])
def test_a_changed_image_of_a_user_is_replaced(rootless: Rootless, as_user: bool) -> None:
    """A changed image in a user's own store is replaced by a copy that matches, and stays as evidence."""
    pulled = rootless.boltseal("pull", rootless.name, as_user=as_user)
    matching = rootless.boltseal("pull", "--replace", rootless.name, as_user=as_user)
    rootless.tamper()
    replaced = rootless.boltseal("pull", "--replace", rootless.name, as_user=as_user)
    statuses = rootless.statuses()

    assert pulled.code == 0, pulled.err
    assert (matching.code, matching.out.split()[0]) == (0, "here"), matching
    assert (replaced.code, replaced.out.split()[0]) == (0, "replaced"), replaced
    assert statuses.pop(rootless.name) == "holds"
    assert [("boltseal-keep-" in name, status) for name, status in statuses.items()] == [(True, "differs")]
