"""Which host of a run begins next, and what goes back if one fails."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.deploy.host_run import HostRun, HostStep, WayBack, newest_number, way_back
from boltseal.deploy.releases import Release, ReleaseEnd, ReleaseKind
from tests.deploy.samples import release

HOSTS = ("web1", "web2", "web3")
ANN = ("ann@host",)
UNDER_WAY, ENDED, FAILED = HostStep.UNDER_WAY, HostStep.ENDED, HostStep.FAILED


def made(
    number: int, end: ReleaseEnd | None = ReleaseEnd.HEALTHY, previous: int | None = None, of: int | None = None
) -> Release:
    """Return a release; with `of` a rollback, which holds."""
    kind = ReleaseKind.DEPLOY if of is None else ReleaseKind.ROLLBACK
    return msgspec.structs.replace(release(number, end), previous=previous, of=of, kind=kind, hold=of is not None)


def after(run: HostRun, **steps: HostStep) -> HostRun:
    """Return a run with these hosts at other steps."""
    for host, step in steps.items():
        run = run.at(host, step)
    return run


def test_one_host_after_the_other_in_the_order_given() -> None:
    """Without further options the next host begins when the one before has ended."""
    run = HostRun(HOSTS)

    assert run.next == ("web1",)
    assert after(run, web1=UNDER_WAY).next == ()
    assert after(run, web1=ENDED).next == ("web2",)
    assert after(run, web1=ENDED, web2=ENDED, web3=ENDED).next == ()


def test_several_at_once_are_never_more_than_asked_for() -> None:
    """With two at once a host begins as soon as one of two has ended."""
    run = HostRun(HOSTS, at_once=2)

    assert run.next == ("web1", "web2")
    assert after(run, web1=UNDER_WAY, web2=UNDER_WAY).next == ()
    assert after(run, web1=UNDER_WAY, web2=ENDED).next == ("web3",)


def test_no_host_begins_after_a_failure() -> None:
    """A failure lets those under way end, begins no other, and all that were begun may have to go back, the last one first."""
    run = after(HostRun(HOSTS, at_once=2), web1=UNDER_WAY, web2=FAILED)

    assert run.next == ()
    assert after(run, web1=ENDED).to_undo == ("web2", "web1")


def test_nothing_goes_back_without_a_failure() -> None:
    """A run in which all hosts ended well has nothing to undo."""
    assert after(HostRun(HOSTS), web1=ENDED, web2=ENDED, web3=ENDED).to_undo == ()


def test_the_others_wait_until_the_canary_was_watched() -> None:
    """The hosts after the canary begin only when it has ended and stayed healthy."""
    run = HostRun(HOSTS, at_once=3, canary=1)
    ended = after(run, web1=ENDED)
    watched = HostRun(HOSTS, at_once=3, canary=1, steps=ended.steps, watched=True)

    assert run.next == ("web1",)
    assert not run.to_watch
    assert ended.to_watch
    assert ended.next == ()
    assert watched.next == ("web2", "web3")
    assert not watched.to_watch


def test_a_canary_that_fails_is_not_watched() -> None:
    """If the deploy of a canary host fails, there is nothing to watch, and no other host begins."""
    run = after(HostRun(HOSTS, canary=2), web1=ENDED, web2=FAILED)

    assert not run.to_watch
    assert run.next == ()
    assert run.to_undo == ("web2", "web1")


@given(st.data(), st.integers(1, 6), st.integers(1, 4), st.integers(0, 5))
def test_every_run_ends_with_each_host_begun_or_a_failure(
    data: st.DataObject, count: int, at_once: int, canary: int
) -> None:
    """In any order of events at most `at_once` are under way, and a run without a failure begins every host in order."""
    hosts = tuple(f"web{number}" for number in range(count))
    run, begun = HostRun(hosts, at_once, min(canary, count - 1)), list[str]()
    while True:
        if run.to_watch:
            run = HostRun(run.hosts, run.at_once, run.canary, run.steps, watched=True)
        for host in run.next:
            begun.append(host)
            run = run.at(host, UNDER_WAY)
        under_way = [each for each in hosts if run.step(each) is UNDER_WAY]
        assert len(under_way) <= at_once
        if not under_way:
            break
        run = run.at(data.draw(st.sampled_from(under_way)), data.draw(st.sampled_from([ENDED, ENDED, FAILED])))

    assert begun == list(hosts[: len(begun)])
    assert run.failed or len(begun) == count
    assert set(run.to_undo) == (set(begun) if run.failed else set())


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        ([], None),
        ([made(5, previous=4)], WayBack(4)),
        ([made(5)], WayBack(None)),
        ([made(5, ReleaseEnd.PUT_BACK, previous=4)], None),
        ([made(5, ReleaseEnd.FAILED, previous=4)], None),
        ([made(5, None, previous=4)], WayBack(4)),
        ([made(5, ReleaseEnd.ABANDONED, previous=4), made(6, previous=4)], WayBack(4)),
        ([made(5, previous=4), made(6, previous=5)], WayBack(4)),
        ([made(5, previous=4), made(6, previous=5, of=4)], None),
        ([made(5, previous=4), made(6, None, previous=5, of=4)], WayBack(4, (6,))),
        ([made(5, previous=4), made(6, ReleaseEnd.PUT_BACK, previous=5, of=4)], WayBack(4, (6,))),
        ([made(5, previous=4, of=3)], WayBack(4, (5,))),
        ([made(5, previous=4, of=3), made(6, previous=5, of=4)], None),
    ],
)
def test_what_goes_back_is_read_from_the_releases_after_the_mark(
    later: list[Release], expected: WayBack | None
) -> None:
    """A host goes back to what ran before the run, unless that runs already, its own deploy failed, or nothing was recorded."""
    before = [made(3), made(4, previous=3)]

    assert way_back([*before, *later], newest_number(before), ANN) == expected


def test_what_ran_without_a_release_is_what_ran_before() -> None:
    """Containers that a run recorded as a release of their own are gone back to, and are no release of the run."""
    found = msgspec.structs.replace(made(0), kind=ReleaseKind.FOUND)

    assert way_back([found], 0, ANN) is None
    assert way_back([found, made(1, previous=0)], 0, ANN) == WayBack(0)
    assert (
        way_back([msgspec.structs.replace(found, number=5), made(6, ReleaseEnd.PUT_BACK, previous=5)], 4, ANN) is None
    )


def test_what_another_person_deployed_is_not_undone() -> None:
    """A host keeps the newer release of another person, and goes back to one that came between the check and the run."""

    def of_bob(release: Release) -> Release:
        return msgspec.structs.replace(release, who="bob@host")

    own = made(5, previous=4)
    newer, failed = of_bob(made(6, previous=5)), of_bob(made(6, ReleaseEnd.PUT_BACK, previous=5))
    unfinished = of_bob(made(6, None, previous=5))

    assert way_back([own, newer], 4, ANN) == WayBack(None, other=newer)
    assert way_back([own, unfinished], 4, ANN) == WayBack(None, other=unfinished)
    assert way_back([own, failed], 4, ANN) == WayBack(4)
    assert way_back([of_bob(made(5, previous=4)), made(6, previous=5)], 4, ANN) == WayBack(5)
    assert way_back([of_bob(made(5, previous=4))], 4, ANN) is None
