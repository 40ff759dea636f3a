"""What a release is, and the one form in which it is written down."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from boltseal.deploy.releases import (
    Release,
    ReleasedService,
    ReleaseEnd,
    ReleaseInvalid,
    ReleaseKind,
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

DIGEST = f"sha256:{'a' * 64}"


def release(number: int, end: ReleaseEnd | None = ReleaseEnd.HEALTHY, of: int | None = None) -> Release:
    """A release of two services."""
    services = tuple(
        ReleasedService(name=name, image=f"localhost:5000/shop/{name}:1.0.0", digest=DIGEST, image_id=DIGEST)
        for name in ("app", "db")
    )
    step = ReleaseStep.WAITING if end is None else ReleaseStep.ENDED
    kind = ReleaseKind.DEPLOY if of is None else ReleaseKind.ROLLBACK
    return Release(
        project="shop",
        number=number,
        kind=kind,
        directory="/srv/shop",
        started_us=number,
        who="ann@host",
        of=of,
        step=step,
        end=end,
        services=services,
    )


def test_a_record_comes_back_as_it_was_written() -> None:
    """All of it, and readable by people: a line for each value."""
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
def test_what_is_no_record_is_not_taken_for_one(raw: bytes) -> None:
    """One clear error, whatever lies there."""
    with pytest.raises(ReleaseUnreadable):
        parse_release(raw)


def test_a_record_of_a_newer_boltseal_is_left_to_it() -> None:
    """It is not read by half."""
    newer = json.loads(format_release(release(1))) | {"format": 2}

    with pytest.raises(ReleaseUnreadable, match="got 2, expected 1"):
        parse_release(json.dumps(newer).encode())


@pytest.mark.parametrize("name", ["", "Shop", "../x", "a/b", "-a", "a" * 256, "a\n"])
def test_a_project_has_a_name_that_may_be_a_folder(name: str) -> None:
    """As Compose allows it."""
    with pytest.raises(ReleaseInvalid):
        check_project(name)


def test_a_rollback_means_what_ran_before_what_runs() -> None:
    """A failure in between did not run."""
    found = [release(1), release(2), release(3, ReleaseEnd.PUT_BACK), release(4)]
    back = rollback_target(found)

    assert back is not None
    assert back.number == 2


def test_a_second_rollback_goes_one_further() -> None:
    """After "back to 2" what runs is 2 again, and before it ran 1."""
    back = rollback_target([release(1), release(2), release(3), release(4, of=2)])

    assert back is not None
    assert back.number == 1


def test_an_unfinished_release_is_left_for_the_last_that_ran() -> None:
    """It never ran, so what ran before it is the newest that did."""
    back = rollback_target([release(1), release(2), release(3, None)])

    assert back is not None
    assert back.number == 2


@pytest.mark.parametrize("found", [[], [release(1)], [release(1, ReleaseEnd.FAILED)], [release(1), release(2, of=1)]])
def test_there_may_be_nothing_to_go_back_to(found: list[Release]) -> None:
    """The first that ran has nothing before it."""
    assert rollback_target(found) is None


def test_the_last_that_ran_is_the_newest_healthy_one() -> None:
    """Whatever came after it."""
    found = last_good([release(1), release(2), release(3, ReleaseEnd.FAILED), release(4, None)])

    assert found is not None
    assert found.number == 2


def test_a_step_touches_only_the_services_that_were_chosen() -> None:
    """And not what has failed already."""
    chosen = replace(release(2, None), chosen=("app",))
    moved = chosen.at(ReleaseStep.WAITING, ServiceState.STARTED)

    assert [each.state for each in moved.services] == [ServiceState.STARTED, ServiceState.PLANNED]


@pytest.mark.parametrize("end", [ReleaseEnd.FAILED, ReleaseEnd.ABANDONED, None])
def test_what_a_release_has_left_behind_goes_with_the_next(end: ReleaseEnd | None) -> None:
    """Also where none ran before it: its services are named, until one has run since or was put in its place."""
    failed = replace(release(2, end), removed=("old",))

    assert removed_services([failed], {"app"}) == ("db", "old")
    assert removed_services([release(1), failed], {"new"}) == ("app", "db", "old")
    assert unreplaced_releases([release(1), failed, release(3, ReleaseEnd.PUT_BACK)]) == [failed]
    assert unreplaced_releases([release(1), failed, release(3)]) == []


def test_what_was_put_back_has_left_nothing_behind() -> None:
    """Only what the last one that ran has, and is wanted no more."""
    put_back = replace(release(2, ReleaseEnd.PUT_BACK), services=(), removed=("old",))

    assert removed_services([release(1), put_back], {"app"}) == ("db",)
