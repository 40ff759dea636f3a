"""Releases of several engines in one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.commands.client_context import ClientContext
from boltseal.commands.outcome import Outcome
from boltseal.commands.releases import diff_releases, list_releases, show_release, unfinished_notice
from boltseal.config import ClientPaths
from boltseal.deploy.release_store import NoSuchRelease, ReleaseFolder
from boltseal.deploy.releases import ReleaseContents
from tests.deploy.samples import release
from tests.fakes.engine import FakeEngine

CONTENTS = ReleaseContents(b'{"name": "shop", "services": {"app": {"image": "x"}, "db": {"image": "y"}}}')


def _ignore(_line: str) -> None: ...


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientContext]:
    """A client with its state in a folder of the test, and an engine without releases."""
    with FakeEngine().in_thread(tmp_path) as address:
        paths = ClientPaths((), str(address), tmp_path / "boltseal.toml")
        now_us: Callable[[], int] = lambda: 1_000_000  # noqa: E731 - a constant clock
        yield ClientContext(paths, tmp_path / "state", now_us, _ignore)


def engine_folder(client: ClientContext, address: str = "") -> ReleaseFolder:
    """Return the releases of a project on an engine that was reached before."""
    return ReleaseFolder(client.engines / (address.rpartition("/")[2] or "here"), "shop", address=address)


def test_the_newest_healthy_release_of_each_engine_is_current(client: ClientContext) -> None:
    """For each engine the newest healthy release is current, even if a newer one failed."""
    here, there = engine_folder(client), engine_folder(client, "ssh://web2")
    here.begin(release(1), CONTENTS)
    here.begin(release(2, None), CONTENTS)
    there.begin(release(3), CONTENTS)

    assert [(each.release.number, each.current) for each in list_releases("shop", client).releases] == [
        (1, True),
        (2, False),
        (3, True),
    ]


def test_releases_of_all_projects_are_listed_without_a_name(client: ClientContext) -> None:
    """Without a project name the releases of all projects are listed, possibly none."""
    assert list_releases(None, client).releases == ()
    engine_folder(client).begin(release(1), CONTENTS)

    assert [each.release.project for each in list_releases(None, client).releases] == ["shop"]


def test_the_release_that_runs_is_shown_without_a_number(client: ClientContext) -> None:
    """`release show` without a number shows the release that runs, of this engine first; without one it is an error."""
    with pytest.raises(NoSuchRelease, match="no release of shop runs"):
        show_release("shop", None, client)
    engine_folder(client, client.engine_address().key).begin(release(1), CONTENTS)
    engine_folder(client, "ssh://web2").begin(release(2), CONTENTS)

    assert show_release("shop", None, client).release.number == 1


def test_a_release_equals_itself(client: ClientContext) -> None:
    """A release compared with itself has no changes; a missing release is an error."""
    engine_folder(client).begin(release(1), CONTENTS)

    assert diff_releases("shop", 1, 1, client).outcome is Outcome.HOLDS
    with pytest.raises(NoSuchRelease):
        diff_releases("shop", 1, 9, client)


def test_the_notice_names_the_engine_of_an_unfinished_release_elsewhere(client: ClientContext) -> None:
    """The notice has the complete command with the engine of an unfinished release elsewhere."""
    engine_folder(client, "ssh://web2").begin(release(1, None), CONTENTS)
    [listed] = list_releases("shop", client).releases

    assert "--project-name shop --host ssh://web2`" in unfinished_notice(listed.release, client)
