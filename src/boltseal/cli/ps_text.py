"""The text of `boltseal ps`: a block for each image, with its containers below.

    localhost:5000/shop/app 1.4.2; was `latest` until 2026-11-23T14:02:11Z
      2 moves behind `latest`; pushed by ci
      index sha256:8c5a9f51ffcc (64 digits)
      config sha256:1b7e0c4d9a2f (64 digits)
      a revision of 1.4.1, base docker.io/library/node:16.13 changed:
      was sha256:89d4f2a1c0be (64 digits)
      now sha256:1f3ac1e2b7d0 (64 digits)
      lock: not-recreated, its host has the locked image, but the container
          runs a former image of localhost:5000/shop/app:latest; recreate it
      web-1  since 2026-11-23T09:00:41Z, released by ada (release 7)
      web-2  since 2026-11-23T09:00:41Z, released by ada (release 7)

Lines are wrapped at the columns of the terminal, between words only, so that a digest can be copied.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import chain

from boltseal.cli.output import terminal_columns
from boltseal.commands.text import clean, counted
from boltseal.host.containers.rows import ContainerRow, DeployedRelease
from boltseal.ledger.tag_intervals import BuiltOn, in_words, moment
from boltseal.lockfile.container_check import ContainerStatus, DigestKind, RunningVerdict
from boltseal.oci.reference import Reference

_INDENT = "  "
_KINDS = (DigestKind.INDEX, DigestKind.MANIFEST, DigestKind.UNSPECIFIED, DigestKind.CONFIG, DigestKind.IMAGE_ID)


def blocks(rows: Sequence[ContainerRow], *, several: bool) -> Iterator[str]:
    """Return all lines; blocks are in the order of their first container. `several`: name the host of each container."""
    found: dict[tuple[str, ...], list[ContainerRow]] = {}
    for row in rows:
        found.setdefault(tuple(_head(row)), []).append(row)
    for number, (head, containers) in enumerate(found.items()):
        if number:
            yield ""
        yield from chain.from_iterable(_wrapped(line, _INDENT if at else "") for at, line in enumerate(head))
        for row in containers:
            yield from _wrapped(_container(row, several=several), _INDENT)


def _wrapped(line: str, indent: str) -> list[str]:
    return textwrap.wrap(
        line,
        terminal_columns(),
        initial_indent=indent,
        subsequent_indent=indent + _INDENT * 2,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _head(row: ContainerRow) -> Iterator[str]:
    """Return the lines about the image."""
    yield _title(row)
    notes = [_behind(row), "" if row.seen.image.recorded else "its host has no record of it", _pushed(row)]
    if row.seen.image.is_evidence:
        notes.append("its files were changed on the host, and it is kept as evidence: see `boltseal keep ls`")
    if line := "; ".join(filter(None, notes)):
        yield line
    yield from _digests(row)
    if row.built is not None:
        yield from _built(row.built)
    if row.verdict is not None:
        yield f"lock: {_by_lock(row.verdict, row.deployed)}"


def _by_lock(verdict: RunningVerdict, deployed: DeployedRelease | None) -> str:
    """Return the result of the comparison with the lock, with the reason unless the status says it."""
    if verdict.status is ContainerStatus.HOLDS:
        return "same"
    if deployed is not None and deployed.of is not None and verdict.weight != "holds":
        return f"{verdict.status}, because release {deployed.number} went back to release {deployed.of}"
    if verdict.weight in ("differs", "unknown") and verdict.reason:
        return f"{verdict.status}, {clean(verdict.reason)}"
    return str(verdict.status)


def _title(row: ContainerRow) -> str:
    """Return the image's name from its registry, else the lock, else its host, else the container's configuration."""
    if row.local:
        return f"{clean(row.seen.started_as)}, local"
    if row.tags and row.name is not None:
        return f"{Reference.parse(row.name.name).familiar()} {in_words(row.tags)}"
    if row.verdict is not None and row.verdict.weight == "holds" and row.verdict.locked is not None:
        return f"{row.verdict.locked.reference.familiar()}, by the lock"
    if row.seen.image.names:
        return ", ".join(each.familiar() for each in row.seen.image.names) + ", as its host calls it"
    return f"{clean(row.seen.started_as) or 'nothing'}, as it was started"


def _behind(row: ContainerRow) -> str:
    """Return how often the tag moved since it resolved to this image."""
    tag = None if row.name is None else row.name.tag
    if row.behind is not None and row.behind.since_us is not None:
        return f"{counted(row.behind.moves, 'move')} behind `{tag}`" if row.behind.moves else f"`{tag}` was deleted"
    return f"`{tag}` now resolves to {row.resolves_to}" if row.moved and row.resolves_to is not None else ""


def _pushed(row: ContainerRow) -> str:
    by = next((tag.by for tag in row.tags if tag.by), "")
    return f"pushed by {clean(by)}" if by else ""


def _built(built: BuiltOn) -> Iterator[str]:
    """Yield what the ledger records of the build: the base, or for a revision the base's change that it carries."""
    revision = f"a revision of {clean(built.revision_of)}, " if built.revision_of else ""
    if built.was:
        yield f"{revision}base {clean(built.base)} changed:"
        yield f"was {clean(built.was)}"
        yield f"now {clean(built.digest)}"
    else:
        yield f"{revision}built on {clean(built.base)} {clean(built.digest)}"


def _digests(row: ContainerRow) -> Iterator[str]:
    """Yield a line for each digest, with its kind where that is known."""
    found = [(kind, digest) for kind in _KINDS for digest in row.of_kind(kind)]
    for kind, digest in found:
        yield str(digest) if kind is DigestKind.UNSPECIFIED else f"{str(kind).replace('-', ' ')} {digest}"
    if not found:
        yield "no digest"


def _container(row: ContainerRow, *, several: bool) -> str:
    seen = row.seen
    where = f" on {seen.node}" if seen.node else f" at {seen.host}" if several else ""
    since = [] if seen.started_us is None else [f"since {moment(seen.started_us)}"]
    if row.deployed is not None:
        since.append(f"released by {row.deployed.by} (release {row.deployed.number})")
    elif row.released is not None:
        since.append(f"released by {row.released.by}")
    if seen.health in ("unhealthy", "starting"):
        since.append(str(seen.health))
    return clean(f"{seen.name}{where}  {', '.join(since)}".rstrip())
