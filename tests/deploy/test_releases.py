"""Release records and their JSON form."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from boltseal.deploy.releases import (
    Release,
    ReleasedService,
    ReleaseEnd,
    ReleaseInvalid,
    ReleaseStep,
    ReleaseUnreadable,
    ServiceState,
    check_project,
    format_release,
    last_good,
    parse_release,
    removed_services,
    rollback_target,
    unreplaced_releases,
)
from tests.deploy.samples import DIGEST, release


def test_a_record_round_trips() -> None:
    """A release record is read back completely, and its JSON is readable for people."""
    written = format_release(release(4))

    assert parse_release(written) == release(4)
    assert written.count(b"\n") > 20


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        format_release(release(1)).replace(b'"healthy"', b'"fine"'),
        format_release(release(1)).replace(b'"who"', b'"whom"'),
        format_release(release(1)).replace(DIGEST.encode(), b"latest"),
        format_release(release(1)).replace(b'"shop"', b'"../etc"'),
        format_release(release(1)).replace(b'"ended"', b'"waiting"'),
        b"[" * 100_000,
        format_release(release(0)),
        format_release(release(10**9)),
        format_release(release(1)).replace(b'"started_us": 1', b'"started_us": 999999999999999999999'),
        format_release(release(1)).replace(b'"started_us": 1', b'"started_us": -1'),
        format_release(release(1)).replace(b"shop/app:1.0.0", b"shop/$app"),
        format_release(replace(release(1), files={"compose.yaml": "../../../etc/passwd"})),
        format_release(replace(release(1), files={"../other/compose.yaml": "0"})),
        format_release(replace(release(1), files={"compose\0.yaml": "0"})),
        format_release(replace(release(1), services=(ReleasedService(name="app", image="app:1"),))),
    ],
)
def test_malformed_records_are_refused(raw: bytes) -> None:
    """A malformed release record is refused with one clear error."""
    with pytest.raises(ReleaseUnreadable):
        parse_release(raw)


def test_a_record_of_a_newer_format_is_refused() -> None:
    """A record of a newer format is refused, and not read in part."""
    newer = json.loads(format_release(release(1))) | {"format": 2}

    with pytest.raises(ReleaseUnreadable, match="got 2, expected 1"):
        parse_release(json.dumps(newer).encode())


@pytest.mark.parametrize("name", ["", "Shop", "../x", "a/b", "-a", "a" * 256, "a\n"])
def test_project_names_are_safe_folder_names(name: str) -> None:
    """Project names follow Compose's rule, so that they are safe folder names."""
    with pytest.raises(ReleaseInvalid):
        check_project(name)


def test_a_rollback_restores_the_release_before_the_running_one() -> None:
    """A rollback skips failed releases, which did not run."""
    found = [release(1), release(2), release(3, ReleaseEnd.PUT_BACK), release(4)]
    back = rollback_target(found)

    assert back is not None
    assert back.number == 2


def test_a_second_rollback_goes_one_further() -> None:
    """After a rollback to release 2, another rollback goes to release 1."""
    back = rollback_target([release(1), release(2), release(3), release(4, of=2)])

    assert back is not None
    assert back.number == 1


def test_a_rollback_of_an_unfinished_release_restores_the_last_healthy_one() -> None:
    """A rollback of an unfinished release, which never ran, restores the last healthy one."""
    back = rollback_target([release(1), release(2), release(3, None)])

    assert back is not None
    assert back.number == 2


@pytest.mark.parametrize("found", [[], [release(1)], [release(1, ReleaseEnd.FAILED)], [release(1), release(2, of=1)]])
def test_the_first_release_has_no_rollback_target(found: list[Release]) -> None:
    """The first release can't be rolled back."""
    assert rollback_target(found) is None


def test_the_last_good_release_is_the_newest_healthy_one() -> None:
    """The newest healthy release counts as the last good one, whatever failed after it."""
    found = last_good([release(1), release(2), release(3, ReleaseEnd.FAILED), release(4, None)])

    assert found is not None
    assert found.number == 2


def test_a_step_changes_only_chosen_services() -> None:
    """An update step changes only selected services that have not failed already."""
    chosen = replace(release(2, None), chosen=("app",))
    moved = chosen.at(ReleaseStep.WAITING, ServiceState.STARTED)

    assert [each.state for each in moved.services] == [ServiceState.STARTED, ServiceState.PLANNED]


@pytest.mark.parametrize("end", [ReleaseEnd.FAILED, ReleaseEnd.ABANDONED, None])
def test_services_of_an_unreplaced_release_are_removed_by_the_next(end: ReleaseEnd | None) -> None:
    """Services of an unreplaced failed release are removed by the next release that runs."""
    failed = replace(release(2, end), removed=("old",))

    assert removed_services([failed], {"app"}) == ("db", "old")
    assert removed_services([release(1), failed], {"new"}) == ("app", "db", "old")
    assert unreplaced_releases([release(1), failed, release(3, ReleaseEnd.PUT_BACK)]) == [failed]
    assert unreplaced_releases([release(1), failed, release(3)]) == []


def test_a_release_that_was_put_back_leaves_no_services() -> None:
    """Services of a restored release are kept only if the last healthy release has them."""
    put_back = replace(release(2, ReleaseEnd.PUT_BACK), services=(), removed=("old",))

    assert removed_services([release(1), put_back], {"app"}) == ("db",)
