"""The text of `boltseal ps`: a block for each image, within 80 columns."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from boltseal.cli.ps_text import blocks
from boltseal.engines.inventory import ContainerHealth
from boltseal.host.containers.hosts import RunningContainer
from boltseal.host.containers.rows import ContainerRow, DeployedRelease
from boltseal.ledger.tag_intervals import Behind, ReleaseRecord, TagInterval
from boltseal.lockfile.compare import Weight
from boltseal.lockfile.container_check import (
    ContainerStatus,
    DigestKind,
    LockedImages,
    Origin,
    RunningImage,
    RunningVerdict,
    judge,
)
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests.lockfile.locks import lock_of, locked

NAME = Reference.parse("localhost:5000/shop/app:latest")
INDEX, CONFIG, OTHER = (Digest.of(words) for words in (b"index", b"config", b"other"))
NOON_US = 1_795_694_400_000_000
"""2026-11-26T12:00:00Z."""
HOUR_US = 3_600_000_000


def seen(name: str = "web-1", **more: object) -> RunningContainer:
    image = RunningImage(NAME, {INDEX: DigestKind.INDEX})
    container = RunningContainer("web1", name, name, str(NAME), image, "Docker", started_us=NOON_US - HOUR_US)
    return replace(container, **more)  # type: ignore[arg-type]


def row(running: RunningContainer | None = None, **more: object) -> ContainerRow:
    digests = {CONFIG: DigestKind.CONFIG, INDEX: DigestKind.INDEX, OTHER: DigestKind.UNSPECIFIED}
    return replace(ContainerRow(running or seen(), NAME, digests, None), **more)  # type: ignore[arg-type]


def text_of(*rows: ContainerRow, several: bool = False) -> list[str]:
    return list(blocks(rows, several=several))


def test_a_block_shows_all_known_facts() -> None:
    """A block shows former and present tags, distance, actor, digests by kind, the lock's entry, and each container."""
    known: dict[str, Any] = {
        "tags": (TagInterval("1.4.2", 0, None, "ci"), TagInterval("latest", 0, NOON_US - 22 * HOUR_US)),
        "behind": Behind(2, 1),
        "moved": True,
        "verdict": RunningVerdict(ContainerStatus.NOT_RECREATED, Weight.DIFFERS),
        "deployed": DeployedRelease(7, "ada", 0),
    }

    assert text_of(row(**known), row(seen("web-2", health=ContainerHealth.UNHEALTHY), **known)) == [
        "localhost:5000/shop/app 1.4.2; was `latest` until 2026-11-25T14:00:00Z",
        "  2 moves behind `latest`; pushed by ci",
        f"  index {INDEX}",
        f"  {OTHER}",
        f"  config {CONFIG}",
        "  lock: not-recreated",
        "  web-1  since 2026-11-26T11:00:00Z, released by ada (release 7)",
        "  web-2  since 2026-11-26T11:00:00Z, released by ada (release 7), unhealthy",
    ]


def test_what_could_not_be_compared_with_the_lock_has_a_reason() -> None:
    """`unknown` has the reason: after a rollback the lock has the files' tag, and neither the tag nor the image that run."""
    lock = LockedImages.of(lock_of(locked("localhost:5000/shop/app:1.4.2.1", 1)))
    ran = replace(seen().image, started_as=Reference.parse("localhost:5000/shop/app:1.4.2"))
    lines = " ".join(" ".join(text_of(row(verdict=judge(ran, lock)))).split())
    reason = "boltseal.lock has localhost:5000/shop/app as 1.4.2.1, but neither this tag nor this image"

    assert f"lock: unknown, {reason}" in lines


def test_a_difference_from_the_lock_has_its_reason() -> None:
    """A difference has its reason; after a rollback that is the rollback, and not the advice to recreate the container."""
    verdict = RunningVerdict(
        ContainerStatus.NOT_RECREATED, Weight.DIFFERS, "its host has the locked image; recreate it"
    )
    plain, rollback = DeployedRelease(7, "ada", 0), DeployedRelease(8, "ada", 0, of=6)
    same = RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS)
    lines = [text_of(row(verdict=each, deployed=by)) for each in (verdict, same) for by in (plain, rollback)]

    assert [line for block in lines for line in block if "lock:" in line] == [
        "  lock: not-recreated, its host has the locked image; recreate it",
        "  lock: not-recreated, because release 8 went back to release 6",
        "  lock: same",
        "  lock: same",
    ]


def test_an_image_is_named_without_its_registrys_answer() -> None:
    """Without the registry's answer, an image is named by the lock, by the host or by its creator, or marked as local."""
    image = seen().image
    held = row(verdict=RunningVerdict(ContainerStatus.HOLDS, Weight.HOLDS, "", None))
    named = row(seen(image=replace(image, names=(NAME, Reference.parse("mine:dev")))))
    nothing = row(seen(started_as=""))
    local = row(seen(image=replace(image, origin=Origin.LOCAL)))
    heads = [text_of(each)[0] for each in (held, named, nothing, local)]

    assert heads == [
        "localhost:5000/shop/app:latest, as it was started",
        "localhost:5000/shop/app:latest, mine:dev, as its host calls it",
        "nothing, as it was started",
        "localhost:5000/shop/app:latest, local",
    ]


def test_the_distance_to_a_moved_tag_is_shown() -> None:
    """A moved tag is shown with the number of moves if there is a history; a deleted one as such; an unmoved one not
    at all."""
    lines = [
        text_of(each)[1]
        for each in (
            row(behind=Behind(1, 1), moved=True),
            row(behind=Behind(0, 1), moved=True),
            row(resolves_to=OTHER, moved=True),
            row(behind=Behind(0), moved=False, digests={}),
        )
    ]

    assert lines == [
        "  1 move behind `latest`",
        "  `latest` was deleted",
        "  `latest` now resolves to",
        "  no digest",
    ]


def test_a_missing_record_and_the_ledgers_actor_are_shown() -> None:
    """A missing release record, and the actor of the release according to the ledger, are shown beside each other."""
    lost = seen(image=replace(seen().image, recorded=False))
    lines = text_of(row(lost, released=ReleaseRecord("ci", 0, 3)))

    assert lines[1] == "  its host has no record of it"
    assert lines[-1] == "  web-1  since 2026-11-26T11:00:00Z, released by ci"


def test_the_host_of_a_container_is_shown() -> None:
    """Each container is shown with its host if there are several, and with its node in a cluster."""
    assert text_of(row(), several=True)[-1] == "  web-1 at web1  since 2026-11-26T11:00:00Z"
    assert text_of(row(seen(node="node-a")), several=True)[-1] == "  web-1 on node-a  since 2026-11-26T11:00:00Z"
    assert text_of(row(seen(started_us=None)))[-1] == "  web-1"


def test_no_line_is_wider_than_a_terminal_or_moves_its_cursor() -> None:
    """No line is wider than 80 columns or moves the cursor, whatever a field has."""
    evil = "\x1b[2J" + "a very long name " * 20
    tags = tuple(TagInterval(f"1.4.{number}", 0, None, "ci\x1b[31m") for number in range(40))
    lines = text_of(row(seen(name="web" * 40, started_as=evil)), row(tags=tags))

    assert max(len(line) for line in lines if " " in line.strip()) <= 80
    assert "\x1b" not in "".join(lines)
