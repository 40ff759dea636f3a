"""The distribution API of another registry. Everything returned was verified.

- A tag is resolved by HEAD, never by GET: Docker Hub counts a manifest GET as a pull, and a HEAD not.
- A manifest is fetched by digest, and its bytes have that digest.
- A blob is yielded while it arrives; its last piece is yielded only when digest and size of the whole match.
- Documents are bounded. A paged list ends after a maximum number of pages.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final, NamedTuple
from urllib.parse import quote as quote_path
from urllib.parse import urljoin, urlsplit

import msgspec

from boltseal.client.background_hash import BackgroundHash
from boltseal.client.blob_chunks import coalesced
from boltseal.client.errors import RemoteDigestMissing, RemoteMismatch, RemoteNotFound, RemoteUnavailable
from boltseal.client.hosts import api_host
from boltseal.client.last_event import LastEvent, parse_last_event
from boltseal.client.link_header import next_page
from boltseal.client.registry_request import RegistryRequest, RegistryResponse
from boltseal.client.transport import Transport
from boltseal.errors import BoltsealError
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.jsontext import decode
from boltseal.oci.manifest import Manifest, ManifestInvalid, format_index, parse_manifest
from boltseal.oci.mediatype import MANIFEST_TYPES, OCI_INDEX, parse_content_type
from boltseal.oci.reference import HUB, Repository, Tag, TagInvalid

MAX_MANIFEST_BYTES: Final = 8 * 1024 * 1024
MAX_PAGES: Final = 10_000
MAX_LIST_BYTES: Final = 64 * 1024 * 1024
RESUMES: Final = 5
_NO_REFERRERS: Final = frozenset({404, 405, 501})
_is_moment: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{8,15}Z", re.ASCII).fullmatch
_ACCEPT: Final = ", ".join(sorted(MANIFEST_TYPES))


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a tag or digest resolves to at a registry: digest, media type, size in bytes (-1: not sent).

    `settles`: when the registry seals the tag, which is not sealed yet; "" for every other tag.
    """

    digest: Digest
    media_type: str
    size: int
    settles: str = ""


@dataclass(frozen=True, slots=True)
class BlobStream:
    """A blob that is arriving. `size`: in bytes, as the registry announces it; None if it does not."""

    size: int | None
    pieces: AsyncGenerator[bytes]


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class TagPage(NamedTuple):
    """A page of a list of tags. `settling`: those of them that the registry names as not sealed yet."""

    tags: tuple[Tag, ...]
    settling: frozenset[Tag]


class RegistryClient:
    """Reads and writes the repositories of one registry, such as `ghcr.io`."""

    def __init__(self, transport: Transport, registry: str) -> None:
        self._transport = transport
        self.registry = registry

    async def resolve(self, repository: Repository, reference: Tag | Digest) -> Resolved:
        """Return what a reference resolves to now, by one HEAD. Raises: RemoteNotFound, LedgerBroken, TagUnproven.

        What a tag resolves to is proven here, and only here, if the registry's ledger is trusted (`client.tag_proofs`).
        """
        prover = self._transport.prover
        if prover is None or isinstance(reference, Digest):
            return await self.resolve_unproven(repository, reference)
        return await prover.proven(
            self.registry, repository, reference, lambda: self.resolve_unproven(repository, reference)
        )

    async def resolve_unproven(self, repository: Repository, reference: Tag | Digest) -> Resolved:
        """Return the registry's own answer for a reference, for callers that compare it with the ledger themselves."""
        what = _what(repository, reference)
        reply = await self._transport.request(
            self._call("HEAD", repository, f"manifests/{reference}", what, headers={"accept": _ACCEPT})
        )
        header = reply.headers.get("docker-content-digest")
        if header is None and isinstance(reference, Tag):
            raise RemoteDigestMissing(f"{self.registry} sends no digest for {what}: it can't be resolved by HEAD")
        digest = reference if header is None and isinstance(reference, Digest) else self._digest(header or "", what)
        if isinstance(reference, Digest) and digest != reference:
            raise RemoteMismatch(f"{self.registry} was asked for {reference} and answers with {digest}")
        media_type = parse_content_type(reply.headers.get("content-type")) or ""
        length = reply.headers.get("content-length", "")
        settles = reply.headers.get("boltseal-settles", "")
        size = int(length) if length.isdecimal() else -1
        return Resolved(digest, media_type, size, settles if _is_moment(settles) else "")

    async def resolve_explained(self, repository: Repository, reference: Tag | Digest) -> Resolved:
        """Resolve a reference; a missing one is reported with the registry's own reason (`explain_missing`). Raises: as `resolve`."""
        try:
            return await self.resolve(repository, reference)
        except RemoteNotFound as error:
            raise await self.explain_missing(repository, reference, error) from error

    async def explain_missing(
        self, repository: Repository, reference: Tag | Digest, error: RemoteNotFound
    ) -> RemoteNotFound:
        """Return the error of a reference that HEAD did not find, with the reason that the registry gives for a GET.

        Not where manifests are counted as pulls. Any other answer changes nothing.
        """
        if self.registry == HUB or self.registry in self._transport.quotas:
            return error
        what = _what(repository, reference)
        call = self._call("GET", repository, f"manifests/{reference}", what, headers={"accept": _ACCEPT})
        try:
            await self._transport.request(replace(call, idempotent=False), max_bytes=MAX_MANIFEST_BYTES)
        except RemoteNotFound as explained:
            return explained if explained.bound is not None else RemoteNotFound(explained.message, error.bound)
        except BoltsealError:
            return error
        return error

    async def manifest(self, repository: Repository, reference: Digest | Tag) -> Manifest:
        """Return a manifest, parsed, and verified where it is asked for by its digest. Raises: RemoteNotFound, RemoteMismatch."""
        what = _what(repository, reference)
        reply = await self._transport.request(
            self._call("GET", repository, f"manifests/{reference}", what, headers={"accept": _ACCEPT}),
            max_bytes=MAX_MANIFEST_BYTES,
        )
        header = reply.headers.get("docker-content-digest")
        stated = self._digest(header, what) if header is not None and isinstance(reference, Tag) else None
        expected = reference if isinstance(reference, Digest) else stated
        found = None if expected is None else Digest.of(reply.body, expected.algorithm)
        if found != expected:
            raise RemoteMismatch(f"{self.registry} answered {what} with bytes of digest {found}: not used")
        try:
            return parse_manifest(reply.body, reply.headers.get("content-type"))
        except ManifestInvalid as error:
            raise RemoteMismatch(f"{self.registry}: {what} can't be parsed: {error.message}") from error

    async def blob(self, repository: Repository, digest: Digest, size: int) -> AsyncIterator[bytes]:
        """Yield the bytes of a blob, verified as they pass: the last piece is yielded only if the whole blob matches.

        A broken connection is resumed, a few times. Raises: RemoteMismatch.
        """
        running, received, held = BackgroundHash(digest), 0, b""
        what = f"blob {digest.short} of {repository}"
        for resumed in range(RESUMES + 1):
            try:
                async with aclosing(self._blob_from(repository, digest, received, what)) as pieces:
                    async for piece in pieces:
                        received += len(piece)
                        if received > size:
                            raise RemoteMismatch(
                                f"{self.registry} sends more than the {size} bytes of {what}: not used"
                            )
                        await running.update(piece)
                        if held:
                            yield held
                        held = piece
            except RemoteUnavailable:
                if resumed == RESUMES:
                    raise
                continue
            if received < size and resumed < RESUMES:
                continue
            break
        if received != size or not await running.matches():
            raise RemoteMismatch(
                f"{self.registry}: {what} does not match its digest ({received} of {size} bytes): not used"
            )
        if held:
            yield held

    async def _blob_from(self, repository: Repository, digest: Digest, start: int, what: str) -> AsyncGenerator[bytes]:
        async with self.stream_blob(repository, digest, start, what) as arriving, aclosing(arriving.pieces) as pieces:
            async for piece in pieces:
                yield piece

    @asynccontextmanager
    async def stream_blob(
        self, repository: Repository, digest: Digest, start: int = 0, what: str = ""
    ) -> AsyncIterator[BlobStream]:
        """Open a blob from byte `start` on, not verified. Raises: RemoteNotFound, RemoteMismatch, RemoteUnavailable."""
        what = what or f"blob {digest.short} of {repository}"
        headers = {"range": f"bytes={start}-"} if start else {}
        ok = frozenset({200, 206, 416}) if start else frozenset({200})
        async with self._transport.stream(
            self._call("GET", repository, f"blobs/{digest}", what, headers=headers, ok=ok)
        ) as response:
            if response.status_code == 416:
                raise RemoteMismatch(f"{self.registry}: {what} ends after {start} bytes: not used")
            skip = start if response.status_code == 200 else 0  # a registry without range requests starts at byte 0
            length = response.headers.get("content-length", "")
            size = int(length) + start - skip if length.isdecimal() else None  # the length may be that of the range
            yield BlobStream(size, coalesced(response.aiter_raw(), skip, self._transport.pace, what))

    async def has_blob(self, repository: Repository, digest: Digest) -> int | None:
        """Return the size of a blob in the repository (-1: not sent), or None if it is missing."""
        call = self._call("HEAD", repository, f"blobs/{digest}", f"blob {digest.short}", ok=frozenset({200, 404}))
        reply = await self._transport.request(call)
        length = reply.headers.get("content-length", "")
        return None if reply.status == 404 else int(length) if length.isdecimal() else -1

    async def tags(self, repository: Repository) -> AsyncIterator[Tag]:
        """Yield every tag of a repository, in the registry's order, over all pages. Raises: RemoteNotFound."""
        async for page in self.tag_pages(repository):
            for tag in page.tags:
                yield tag

    async def tag_pages(self, repository: Repository) -> AsyncIterator[TagPage]:
        """Yield the tags of a repository page by page, in the registry's order. Raises: RemoteNotFound."""
        path, what = f"/v2/{repository}/tags/list?n=1000", f"tags of {repository}"
        for _ in range(MAX_PAGES):
            reply = await self._transport.request(RegistryRequest(self.registry, "GET", path, what, _pull(repository)))
            settling = set(reply.headers.get("boltseal-settling", "").split())
            tags = tuple(self._tag(name, repository) for name in self._decode(reply, _Tags, what).tags or ())
            yield TagPage(tags, frozenset(tag for tag in tags if tag in settling))
            following = next_page(reply.headers.get("link", ""), path)
            if following is None or following == path:
                return
            path = following
        raise RemoteMismatch(f"{self.registry} lists the {what} over more than {MAX_PAGES} pages")

    async def last_event(self, repository: Repository, tag: Tag) -> LastEvent | None:
        """Return the newest event of a tag, or None if the registry keeps no history or sends a malformed one."""
        path = f"/v2/{repository}/_oci/tag-history/{tag}?n=1"
        call = RegistryRequest(self.registry, "GET", path, f"history of {tag}", _pull(repository))
        try:
            return parse_last_event((await self._transport.request(call)).body)
        except BoltsealError:
            return None

    async def referrers(self, repository: Repository, digest: Digest) -> tuple[Descriptor, ...]:
        """Return the descriptors of manifests whose subject is this one; without a referrers API, those of the fallback
        tag.
        """
        what = f"referrers of {digest.short}"
        path: str | None = f"/v2/{repository}/referrers/{digest}"
        found: list[Descriptor] = []
        size = 0
        for _ in range(MAX_PAGES):
            if path is None:
                return tuple(found)
            if size > MAX_LIST_BYTES:
                raise RemoteMismatch(f"{self.registry} lists the {what} in more than {MAX_LIST_BYTES} bytes")
            call = RegistryRequest(self.registry, "GET", path, what, _pull(repository), ok=_NO_REFERRERS | {200})
            reply = await self._transport.request(call)
            if reply.status != 200:
                return await self._fallback(repository, digest, what)
            size += len(reply.body)
            try:
                found += parse_manifest(reply.body, OCI_INDEX).manifests
            except ManifestInvalid as error:
                raise RemoteMismatch(f"{self.registry}: {what} can't be read: {error.message}") from error
            path = next_page(reply.headers.get("link", ""), path)
        raise RemoteMismatch(f"{self.registry} lists the {what} over more than {MAX_PAGES} pages")

    async def _fallback(self, repository: Repository, digest: Digest, what: str) -> tuple[Descriptor, ...]:
        """Return the referrers listed under the fallback tag (distribution-spec, "Referrers Tag Schema")."""
        fallback = _fallback_tag(digest)
        call = self._call(
            "HEAD", repository, f"manifests/{fallback}", what, headers={"accept": _ACCEPT}, ok=frozenset({200, 404})
        )
        reply = await self._transport.request(call)
        if reply.status == 404:
            return ()
        listed = await self.manifest(repository, self._digest(reply.headers.get("docker-content-digest", ""), what))
        return listed.manifests

    async def put_manifest(
        self, repository: Repository, reference: Tag | Digest, manifest: Manifest, *, only_new: bool = False
    ) -> Digest:
        """Push the bytes of a manifest; the registry has to answer with their digest. Raises: RemoteRefused.

        `only_new`: the tag must be free (`If-None-Match: *`); a registry without conditional requests ignores it.
        """
        what = _what(repository, reference)
        condition = {"if-none-match": "*"} if only_new else {}
        reply = await self._transport.request(
            self._call(
                "PUT",
                repository,
                f"manifests/{reference}",
                what,
                headers={"content-type": manifest.media_type, **condition},
                body=manifest.raw,
                ok=frozenset({200, 201, 202}),
            )
        )
        digest = Digest.of(manifest.raw, reference.algorithm if isinstance(reference, Digest) else "sha256")
        header = reply.headers.get("docker-content-digest")
        if header is not None and header != str(digest):
            raise RemoteMismatch(f"{self.registry} accepted {what} as {header[:200]} (expected {digest})")
        if manifest.subject is not None and "oci-subject" not in reply.headers:
            await self._list_referrer(repository, manifest.subject.digest, manifest, digest)
        return digest

    async def _list_referrer(self, repository: Repository, subject: Digest, manifest: Manifest, digest: Digest) -> None:
        """Add a manifest to its subject's fallback tag, where the registry leaves that to its clients.

        Of two clients that do this at the same time, one may lose its entry; the spec has no remedy.
        """
        listed = await self._fallback(repository, subject, f"referrers of {subject.short}")
        if any(each.digest == digest for each in listed):
            return
        entry = Descriptor(
            manifest.media_type,
            digest,
            len(manifest.raw),
            annotations=manifest.annotations,
            artifact_type=manifest.artifact_type,
        )
        index = parse_manifest(format_index([*listed, entry]), OCI_INDEX)
        await self.put_manifest(repository, _fallback_tag(subject), index)

    async def put_blob(
        self,
        repository: Repository,
        digest: Digest,
        size: int,
        body: Callable[[], AsyncIterator[bytes]],
        mount_from: Repository | None = None,
    ) -> bool:
        """Push a blob, or mount it from another repository of the same registry. Return whether it was mounted."""
        what = f"blob {digest.short} of {repository}"
        query = f"?mount={digest}&from={quote_path(mount_from, safe='')}" if mount_from else ""
        scopes = _push(repository) | (_pull(mount_from) if mount_from else frozenset())
        start = RegistryRequest(
            self.registry,
            "POST",
            f"/v2/{repository}/blobs/uploads/{query}",
            what,
            scopes,
            {"content-length": "0"},
            ok=frozenset({201, 202}),
        )
        reply = await self._transport.request(start)
        if reply.status == 201:
            return True
        location = self._location(reply, start.path, what)
        joint = "&" if "?" in location else "?"
        finish = RegistryRequest(
            self.registry,
            "PUT",
            f"{location}{joint}digest={digest}",
            what,
            _push(repository),
            {"content-type": "application/octet-stream", "content-length": str(size)},
            body,
            ok=frozenset({201, 204}),
            idempotent=False,  # after a failure the upload session may be used up
        )
        await self._transport.request(finish)
        return False

    def _call(
        self,
        method: str,
        repository: Repository,
        rest: str,
        what: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        ok: frozenset[int] = frozenset({200}),
    ) -> RegistryRequest:
        scopes = _pull(repository) if method in ("GET", "HEAD") else _push(repository)
        return RegistryRequest(self.registry, method, f"/v2/{repository}/{rest}", what, scopes, headers or {}, body, ok)

    def _digest(self, text: str, what: str) -> Digest:
        try:
            return Digest.parse(text)
        except DigestInvalid as error:
            raise RemoteMismatch(f"{self.registry}: {what} has a malformed digest") from error

    def _tag(self, name: str, repository: Repository) -> Tag:
        try:
            return Tag(name)
        except TagInvalid as error:
            raise RemoteMismatch(f"{self.registry} lists an invalid tag of {repository}: {error.message}") from error

    def _decode(self, reply: RegistryResponse, kind: type[_Tags], what: str) -> _Tags:
        try:
            return decode(reply.body, kind)
        except ValueError as error:
            raise RemoteMismatch(f"{self.registry}: {what} can't be parsed") from error

    def _location(self, reply: RegistryResponse, request_path: str, what: str) -> str:
        """Return the path of an upload session. A session at another host is refused: the login is not for that host."""
        location = reply.headers.get("location", "")
        parts = urlsplit(location)
        if not location or (parts.netloc and not _same_registry(parts.netloc, self.registry)):
            raise RemoteUnavailable(f"{self.registry} sends the upload of {what} to another host: not followed")
        path = urljoin(request_path.partition("?")[0], parts.path) if not parts.path.startswith("/") else parts.path
        return path + (f"?{parts.query}" if parts.query else "")


def _fallback_tag(subject: Digest) -> Tag:
    return Tag(subject.as_tag)


def _same_registry(netloc: str, registry: str) -> bool:
    default_port = netloc.removesuffix(":443").removesuffix(":80")
    return api_host(registry) in (netloc, default_port)


def _pull(repository: Repository) -> frozenset[str]:
    return frozenset({f"repository:{repository}:pull"})


def _push(repository: Repository) -> frozenset[str]:
    return frozenset({f"repository:{repository}:pull,push"})


def _what(repository: Repository, reference: Tag | Digest) -> str:
    name = reference.short if isinstance(reference, Digest) else reference
    return f"manifest {name} of {repository}"
