"""Sealed tags and their revisions: a base that has a newer one, and an image that its own newest one replaces.

    rt:1.4.2  <-  rt:1.4.2.1        what is built FROM the sealed rt:1.4.2 is outdated, although that tag can never move

1. Of a current base whose registry keeps a ledger, the tags of its repository are needed: the scan has them if it has all
   of the registry's; else one list. Mirrored repositories are skipped, because their tags are an upstream's.
2. A tag counts only if it has a revision by `policy.tag_revisions`, and is sealed: one list of the repository's tag changes.
   A registry lists a change when it is signed, a moment after the push, so the list is read again if it lacks a tag.
3. What can't be read makes a current image unknown.

An outdated image that its own newest revision replaces is `superseded` if that one is current. A mutable tag never is: its
rebuild moves the tag itself. Neither is an image in use, which runs or is named by a project's files: it stays outdated, with the
name of the revision to use instead.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from boltseal.client.ledger_records import SIGNED_PAUSE_S, list_entries
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError, TooLarge, Unavailable
from boltseal.ledger.entry import CHANGES, MODE_SEALED, MODE_SETTLING
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.release_tags import looks_like_release
from boltseal.policy.tag_revisions import DOT, newer_revisions
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.freshness import BaseStatus, BaseVerdict
from boltseal.project.bases.image_documents import RemoteRepository

MAX_TAGS: Final = 200_000
SIGNED_TIMEOUT_S: Final = 3.0
"""How long to wait for the signed entry of a tag that the registry lists."""
LASTING: Final = frozenset({MODE_SEALED, MODE_SETTLING})
"""The modes of tags that never resolve to another image."""
REPLACEABLE: Final = frozenset({BaseStatus.OUTDATED, BaseStatus.UNKNOWN})
"""The results of images that a current revision supersedes."""
Separator: TypeAlias = Callable[[Reference], str]
"""Returns what is between a tag and the number of its revision, for an image."""
Resolve: TypeAlias = Callable[[Iterable[Reference]], Awaitable[Mapping[Reference, Digest | BoltsealError]]]
"""Resolves tags, or returns why that failed."""


def default_separator(_: Reference) -> str:
    """Return the default separator, a dot."""
    return DOT


class Revisions:
    """Looks up revisions. `has_ledger`: whether a registry is known to keep a ledger."""

    def __init__(self, transport: Transport, has_ledger: Callable[[str], bool], separator: Separator) -> None:
        self._transport = transport
        self._has_ledger = has_ledger
        self._separator = separator
        self._tags: dict[RemoteRepository, frozenset[Tag]] = {}
        self._newer: dict[tuple[RemoteRepository, str], Mapping[Tag, Tag]] = {}
        self._sealed: dict[RemoteRepository, Mapping[str, bool]] = {}
        self._waited: set[RemoteRepository] = set()
        """The repositories with a tag that was not listed within the time; another one is not waited for."""

    def saw_all(self, registry: str, images: Iterable[Reference]) -> None:
        """Take over the tags of a scan that has all tags of a registry."""
        found: dict[RemoteRepository, set[Tag]] = {}
        for each in images:
            if each.registry == registry and each.tag is not None:
                found.setdefault(_repository(each), set()).add(each.tag)
        self._tags |= {remote: frozenset(tags) for remote, tags in found.items()}

    def forget(self) -> None:
        """Discard what was read, because tags may have been added meanwhile."""
        self._tags.clear()
        self._newer.clear()
        self._sealed.clear()
        self._waited.clear()

    async def of_bases(
        self, bases: Iterable[Reference], resolve: Resolve
    ) -> dict[Reference, Reference | BoltsealError]:
        """Return for each sealed base the newest revision, by tag and digest, if it has one; or why that is not known."""
        found: dict[Reference, Reference | BoltsealError] = {}
        for base in sorted({base.by_tag for base in bases if base.tag is not None}, key=str):
            if not self._has_ledger(base.registry) or _is_mirrored(base):
                continue
            try:
                newest = await self._newest(base)
            except BoltsealError as error:
                found[base] = error
                continue
            if newest is not None:
                found[base] = newest
        named = [each for each in found.values() if isinstance(each, Reference)]
        digests = await resolve(named) if named else {}
        for base, each in found.items():
            if isinstance(each, Reference):
                digest = digests[each]
                found[base] = replace(each, digest=digest) if isinstance(digest, Digest) else digest
        return found

    async def _newest(self, base: Reference) -> Reference | None:
        remote = _repository(base)
        if remote not in self._tags:
            client, tags = RegistryClient(self._transport, base.registry), set[Tag]()
            async for listed in client.tags(base.repository):
                tags.add(listed)
                if len(tags) > MAX_TAGS:
                    raise TooLarge(f"{base.name} has more than {MAX_TAGS} tags")
            self._tags[remote] = frozenset(tags)
        separator = self._separator(base)
        if (remote, separator) not in self._newer:
            self._newer[remote, separator] = newer_revisions(self._tags[remote], separator)
        tag = None if base.tag is None else self._newer[remote, separator].get(base.tag)
        if tag is None or not await self.is_sealed(base):
            return None
        return replace(base, tag=tag)

    async def is_sealed(self, image: Reference) -> bool:
        """Return whether an existing tag is sealed, by its registry's ledger; without a ledger, whether it looks like a release.

        Raises: Unavailable: the registry has not signed the push of the tag yet; errors of the registry.
        """
        remote = _repository(image)
        if not self._has_ledger(image.registry):
            return image.tag is not None and looks_like_release(image.tag)
        tag = image.tag or ""
        sealed = self._sealed.get(remote) or await self._read_sealed(remote)
        if tag in sealed or _is_mirrored(image):
            return sealed.get(tag, False)
        if remote not in self._waited:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SIGNED_TIMEOUT_S):
                    while True:
                        if tag in (sealed := await self._read_sealed(remote)):
                            return sealed[tag]
                        await asyncio.sleep(SIGNED_PAUSE_S)
            self._waited.add(remote)
        raise Unavailable(
            f"{image.registry} lists no signed entry of {image.by_tag} in its ledger, so it is not known whether the tag is sealed: if "
            "it was pushed a moment ago, run this again when it is signed"
        )

    async def _read_sealed(self, remote: RemoteRepository) -> Mapping[str, bool]:
        entries = await list_entries(self._transport, remote.registry, remote.repository, CHANGES)
        sealed = {each.entry.tag: each.entry.extra.get("mode") in LASTING for each in entries if each.entry.tag}
        self._sealed[remote] = sealed
        return sealed

    async def judged(self, reports: list[BaseReport], resolve: Resolve) -> list[BaseReport]:
        """Judge images on the current image of a sealed tag by the newest revision of that tag."""
        bases = {
            verdict.claim.base
            for report in reports
            for verdict in report.verdicts
            if verdict.status is BaseStatus.CURRENT and verdict.claim is not None and verdict.claim.base is not None
        }
        newer = await self.of_bases(bases, resolve)
        if not newer:
            return reports
        return [
            replace(report, verdicts=tuple(judge_newer(verdict, newer) for verdict in report.verdicts))
            for report in reports
        ]

    async def superseded(self, reports: list[BaseReport]) -> list[BaseReport]:
        """Find the outdated images that a current revision of their own tag replaces, and mutable tags with a revision."""
        by_tag: dict[Reference, list[BaseReport]] = {}
        for report in reports:
            if report.wanted.reference.tag:
                by_tag.setdefault(report.wanted.reference.by_tag, []).append(report)
        concerned = {report.wanted.reference.name for report in reports if report.verdict.status in REPLACEABLE}
        newest = self._replaced(each for each in by_tag if each.name in concerned)
        return [
            await self._superseded(report, by_tag[newest[tag]])
            if (tag := report.wanted.reference.by_tag) in newest and report.error is None
            else report
            for report in reports
        ]

    async def _superseded(self, report: BaseReport, by: Sequence[BaseReport]) -> BaseReport:
        """Judge a report by those of the newest revision of its tag, which may be pinned to several digests."""
        if report.verdict.status not in REPLACEABLE:
            return report
        try:
            if not await self.is_sealed(report.wanted.reference):
                return replace(report, may_move=True)
        except BoltsealError:  # unknown, so it is reported as it is
            return report
        if any(each.error is not None or each.verdict.status is not BaseStatus.CURRENT for each in by):
            return report
        judge = judge_replaceable if report.wanted.in_use else judge_superseded
        newest = by[0].wanted.reference.by_tag
        return replace(report, verdicts=tuple(judge(verdict, newest) for verdict in report.verdicts))

    def _replaced(self, images: Iterable[Reference]) -> dict[Reference, Reference]:
        """Return which of some images have a newer revision among them, by their tags alone."""
        tags: dict[str, set[Reference]] = {}
        for each in images:
            if each.tag is not None:
                tags.setdefault(each.name, set()).add(each.by_tag)
        found: dict[Reference, Reference] = {}
        for several in tags.values():
            first = next(iter(several))
            newer = newer_revisions(frozenset(each.tag for each in several if each.tag), self._separator(first))
            found |= {replace(first, tag=older): replace(first, tag=newest) for older, newest in newer.items()}
        return found


def judge_newer(verdict: BaseVerdict, newer: Mapping[Reference, Reference | BoltsealError]) -> BaseVerdict:
    """Judge an image on the current image of a sealed tag by the newest revision of that tag, as `of_bases` returned it."""
    base = None if verdict.claim is None else verdict.claim.base
    found = None if base is None else newer.get(base.by_tag)
    if verdict.status is not BaseStatus.CURRENT or base is None or found is None:
        return verdict
    if isinstance(found, BoltsealError):
        reason = f"whether its base {base.by_tag} has a newer revision could not be checked: {found.message}"
        return replace(verdict, status=BaseStatus.UNKNOWN, reason=reason)
    if found.digest == verdict.now:
        return verdict
    reason = f"a newer revision of its base exists: {found.by_tag}; {base.by_tag} is sealed, and never moves"
    return replace(verdict, status=BaseStatus.OUTDATED, reason=reason, newer=found)


def judge_superseded(verdict: BaseVerdict, by: Reference) -> BaseVerdict:
    """Judge an image that a current revision of its own tag replaces."""
    if verdict.status not in REPLACEABLE:
        return verdict
    reason = f"superseded by {by}, its newest revision, which is current"
    return replace(verdict, status=BaseStatus.SUPERSEDED, reason=reason)


def judge_replaceable(verdict: BaseVerdict, by: Reference) -> BaseVerdict:
    """Add to the verdict of an image in use which current revision of its own tag replaces it."""
    if verdict.status not in REPLACEABLE:
        return verdict
    return replace(verdict, reason=f"{verdict.reason}; its newest revision {by} is current: use that one")


def _repository(reference: Reference) -> RemoteRepository:
    return RemoteRepository(reference.registry, reference.repository)


def _is_mirrored(reference: Reference) -> bool:
    """Return whether a repository is below the host name of an upstream, as a mirror names it."""
    return "." in reference.repository.partition("/")[0]
