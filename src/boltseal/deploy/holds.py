"""Holds: what a person rolled back is not deployed again until a person ends the hold. Pure.

A rollback holds the release that ran before it: `Release.hold` is true until `boltseal release hold --end`. One that failed holds
nothing; one that was abandoned, or got another number because of another administrator's release, still holds. What is held:

1. The services whose image the rollback changed: `update` and `lock --update` leave them as they are, and a deploy that would
   start a held image is refused.
2. The settings of the held release: a deploy with the same text is refused, unless it is asked for (`--anyway`).

An image that the newest healthy release runs is not held: a person deployed it by the number of its release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from boltseal.deploy.releases import Release, ReleaseEnd, last_good, rollback_target
from boltseal.errors import Precondition, quote

_HOLDING: Final = (None, ReleaseEnd.HEALTHY, ReleaseEnd.WRITTEN, ReleaseEnd.ABANDONED)


class Held(Precondition):
    """A rollback holds what this would deploy."""


@dataclass(frozen=True, slots=True)
class HeldImage:
    """An image that a rollback holds. `image`: as in the files; `undone`: the release that ran it; `by`: the rollback."""

    service: str
    image: str
    digest: str
    image_id: str
    undone: int
    by: int

    @property
    def reason(self) -> str:
        """Return why it is held."""
        return f"held since release {self.by} went back from release {self.undone}"


def holding(releases: Sequence[Release]) -> tuple[Release, ...]:
    """Return the rollbacks whose hold was not ended, oldest first."""
    return tuple(each for each in releases if each.hold and each.end in _HOLDING)


def held_images(releases: Sequence[Release]) -> tuple[HeldImage, ...]:
    """Return the images that rollbacks of a project hold."""
    by_number = {each.number: each for each in releases}
    running = last_good(releases)
    found: dict[tuple[str, str], HeldImage] = {}
    for rollback in holding(releases):
        undone = by_number.get(rollback.previous or 0)
        for service in () if undone is None else undone.services:
            back, now = rollback.service(service.name), None if running is None else running.service(service.name)
            ids = {each.image_id for each in (back, now) if each is not None}
            if service.image_id not in ids:
                found[service.name, service.image_id] = HeldImage(
                    service.name,
                    service.image,
                    service.digest,
                    service.image_id,
                    rollback.previous or 0,
                    rollback.number,
                )
    return tuple(found.values())


def held_services(releases: Sequence[Release]) -> Mapping[str, str]:
    """Return the services that `update` leaves as they are, each with the reason."""
    return {each.service: f"{each.reason}; {end_hint()}" for each in held_images(releases)}


def end_hint(options: str = "") -> str:
    """Return how to end a hold. `options`: those that name the project's releases, where the folder does not."""
    return f"end it with `{_command('release hold --end', options)}`"


def _command(words: str, options: str) -> str:
    return f"boltseal {words} {options}".rstrip()


def check_images(releases: Sequence[Release], wanted: Mapping[str, str], options: str = "") -> None:
    """Check that no held image would be deployed. `wanted`: the digest or image ID of each service. `options`: for the hint.

    Raises: Held.
    """
    wrong = [each for each in held_images(releases) if wanted.get(each.service) in (each.digest or None, each.image_id)]
    if wrong:
        listed = "; ".join(
            f"{each.service}: {quote(each.image, 200)[1:-1]} of {each.digest or each.image_id} is {each.reason}"
            for each in wrong[:20]
        )
        raise Held(f"{listed}. Nothing was started; {end_hint(options)}, or lock another image")


def without_hold(release: Release) -> Release:
    """Return a rollback whose hold a person has ended."""
    return msgspec.structs.replace(release, hold=False)


def check_repeated(releases: Sequence[Release], options: str = "") -> None:
    """Check that `rollback` without a number does not go back a second time: it would leave what the first one restored.

    `options`: for the hint.

    Raises: Held.
    """
    running = last_good(releases)
    if running is None or not running.hold or any(each.unfinished for each in releases):
        return
    target = rollback_target(releases)
    further = "there is no release before it"
    if target is not None:
        further = f"to go back further, to release {target.number}: `{_command(f'rollback {target.number}', options)}`"
    files = (
        ""  # a release on a cluster has no files of the project
        if options
        else f"; to restore the project's files as they were in it: `boltseal rollback {running.number} --restore-files`"
    )
    raise Held(
        f"release {running.number} of {running.project} is a rollback already: it went back from release "
        f"{running.previous or 'unknown'} to release {running.of}; nothing was changed; {further}{files}"
    )
