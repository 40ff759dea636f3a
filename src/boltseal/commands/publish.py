"""`boltseal publish`: push an image by its digest, have it signed, and only then give it its tag.

1. Resolve the tag. If it has another image, nothing is pushed.
2. Push the image by digest, with what is attached to it. No rule refuses that.
3. Unless it is signed: run the user's commands that sign it.
4. With `signed_by`, verify that it has these signatures.
5. Give the tag. A registry with a rule that requires more refuses, and says what is missing.
6. While something is missing in step 4 or 5, wait for it, at most `wait`; the tag is tried again when something was added.

A run that was interrupted can be repeated: what is there is not sent again, and a tag that has the image is left as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import IO, Final

from boltseal.client.errors import RemoteRefused
from boltseal.client.transport import Transport
from boltseal.commands.image_locations import opened_transfer
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask, followed
from boltseal.commands.signed_by import signed_by
from boltseal.commands.signing_program import SigningFailed, run_signing_program, signing_words
from boltseal.errors import ExitCode, exit_code
from boltseal.keyless.verifier import KeylessVerifier
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.durations import Duration
from boltseal.policy.refusals import RefusalDetail, RefusalReason
from boltseal.policy.requirements import MissingEvidence, Requirement, judge_evidence, trusted_roots
from boltseal.signatures.signed_image import SignedImage
from boltseal.transfer.attached import NotCarried, find_attached
from boltseal.transfer.copy import Copier, tag_taken
from boltseal.transfer.evidence import read_evidence
from boltseal.transfer.locations import Location, LocationKind
from boltseal.transfer.remote import RepositoryLocation

POLL_S: Final = 3.0
NO_WAIT: Final = Duration(0)
REGISTRY: Final = "REGISTRY/"
"""How a registry's refusal writes its own address in a command: it does not know under which name clients reach it."""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """What to publish.

    `target`: with its tag. `sign`: commands that sign. `signed_by`: the signatures that it must have (`commands.signed_by`).
    `wait`: how long to wait for a signature. `referrers`: carry along what is attached to the image at another registry.
    `force`: move a mutable tag that has another image.
    """

    source: Location
    target: Reference
    sign: tuple[str, ...] = ()
    signed_by: tuple[str, ...] = ()
    wait: Duration = NO_WAIT
    referrers: bool = True
    force: bool = False


@dataclass(frozen=True, slots=True)
class PublishReport:
    """The result. `status`: published, unchanged or unsigned.

    `missing`: what the image lacks, and `commands` add it. `refused`: the registry's facts, where it refused the tag.
    """

    ref: str
    digest: Digest
    status: str
    reason: str = ""
    missing: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    refused: RefusalDetail | None = None
    not_carried: tuple[NotCarried, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """DIFFERS if it is not signed as required, or a registry refused something that was attached to it."""
        if self.status == "unsigned":
            return Outcome.DIFFERS
        return Outcome.worst(
            Outcome.DIFFERS if exit_code(each.error) is ExitCode.DIFFERS else Outcome.UNKNOWN
            for each in self.not_carried
        )


def publish_target(source: Location, text: str) -> Reference:
    """Parse TAG: a tag of the source's repository, or a reference with a tag. Raises: ReferenceUnsuitable, TagInvalid."""
    if not any(character in text for character in "/:@"):
        tag = Tag(text)
        if source.reference is None:
            raise ReferenceUnsuitable(
                f"{source.text} is in no repository; expected where to publish, such as localhost:5000/shop/app:{tag}"
            )
        return replace(source.reference, tag=tag, digest=None)
    target = Reference.parse(text)
    if target.tag is None or target.digest is not None:
        raise ReferenceUnsuitable(f"{text} has no tag, or a digest; expected {target.name}:TAG")
    return target


def publish_image(
    request: PublishRequest, options: RegistryOptions, progress: Callable[[str, int, int], None], log: IO[str]
) -> PublishReport:
    """Publish an image. `log`: where the commands that sign print.

    Raises: TagTaken, RemoteRefused, SigningFailed, SignerInvalid, LedgerBroken and errors of source and registry.
    """
    source, target = request.source, request.target
    location = Location.parse(str(target))
    required = signed_by(request.signed_by)
    for command in request.sign:  # a mistake in a command is found before anything is pushed
        signing_words(command, target.name)

    async def run(transport: Transport) -> PublishReport:
        if source.reference is not None and source.kind is LocationKind.REGISTRY:
            await followed(options, transport, source.reference.registry)
        async with opened_transfer(options.client, transport, source, location, force=request.force) as ends:
            registry = RepositoryLocation(transport, target.registry, target.repository)
            copier = Copier(
                ends.source,
                ends.target,
                within=ends.within,
                force=request.force,
                referrers=request.referrers and source.kind is LocationKind.REGISTRY,
                readable_target=registry,
                progress=progress,
            )
            client = options.client
            publication = _Publication(request, required, copier, registry, client.notice, client.now_us, progress, log)
            return await publication.publish()

    registries = [each.reference.registry for each in (source, location) if each.reference is not None]
    return ask(options, registries, run)


@dataclass(slots=True)
class _Publication:
    """One run of `publish`.

    `_deadline_s`: when it stops to wait, on the event loop's clock; None before it waits. `_seen`: what was attached to the
    image before it was last judged.
    """

    request: PublishRequest
    required: tuple[Requirement, ...]
    copier: Copier
    registry: RepositoryLocation
    notice: Callable[[str], None]
    now_us: Callable[[], int]
    progress: Callable[[str, int, int], None]
    log: IO[str]
    _keyless: KeylessVerifier = field(default_factory=KeylessVerifier, init=False)
    _deadline_s: float | None = field(default=None, init=False)
    _seen: frozenset[Digest] = field(default=frozenset(), init=False)

    async def publish(self) -> PublishReport:
        # 1
        tag = str(self.request.target.tag)
        name = None if self.request.source.kind is LocationKind.DAEMON else self.request.source.name
        digest = await self.copier.source.resolve(name)
        existing = await self.registry.current_digest(tag)
        if existing not in (None, digest) and not self.request.force:
            raise tag_taken(tag, self.registry.title, existing or digest, digest)
        # 2
        not_carried: tuple[NotCarried, ...] = ()
        if not self.copier.within:
            not_carried = (await self.copier.image(name, tag if existing == digest else None)).not_carried
        # 3 and 4
        report = await self._signed(digest, tagged=existing == digest)
        # 5
        if report is None and existing != digest:
            report = await self._tagged(digest, tag, only_new=existing is None and not self.request.force)
        if report is None:
            status = "unchanged" if existing == digest else "published"
            report = PublishReport(str(self.request.target), digest, status)
        return replace(report, not_carried=not_carried)

    async def _signed(self, digest: Digest, *, tagged: bool) -> PublishReport | None:
        """Have the image signed. Return the report of what is missing, None if nothing is."""
        missing = await self._missing(digest)
        if missing if self.required else not tagged:
            for command in self.request.sign:
                await self._sign(command, digest)
            missing = await self._missing(digest) if self.request.sign else missing
        while missing and await self._something_added(digest):
            missing = await self._missing(digest)
        if not missing:
            return None
        reason = f"{digest} lacks {' and '.join(str(each) for each in missing)}"
        address = f"{self.request.target.registry}/"
        commands = tuple(each.command.replace(REGISTRY, address) for each in missing)
        return self._unsigned(digest, reason, tuple(str(each) for each in missing), commands)

    async def _missing(self, digest: Digest) -> tuple[MissingEvidence, ...]:
        """Return the requirements of `signed_by` that do not hold."""
        if not self.required:
            return ()
        await self._look(digest)
        media_type = (await self.registry.manifest(digest)).media_type
        image = SignedImage(self.request.target.repository, digest, media_type)
        evidence = await read_evidence(self.registry, digest)
        keyless = await self._keyless.results(trusted_roots(self.required), evidence)
        return judge_evidence(self.required, image, evidence, self.now_us(), keyless).missing

    async def _sign(self, command: str, digest: Digest) -> None:
        image = self._by_digest(digest)
        try:
            await run_signing_program(signing_words(command, image), self.log)
        except SigningFailed as error:
            raise SigningFailed(
                f"{error.message}; {image} is pushed, and the tag {self.request.target.tag} was not given: run publish again"
            ) from error

    async def _tagged(self, digest: Digest, tag: str, *, only_new: bool) -> PublishReport | None:
        """Give the tag. Return the report of what the registry's rule misses, None if it has the tag."""
        manifest = await self.registry.manifest(digest)
        await self._look(digest)
        while True:
            try:
                await self.registry.put_manifest(manifest, digest, tag, only_new=only_new)
            except RemoteRefused as error:
                detail = error.detail
                if detail is None or detail.reason is not RefusalReason.UNSIGNED:
                    if (
                        await self.registry.current_digest(tag) == digest
                    ):  # another client was faster with the same image
                        return None
                    raise
                if await self._something_added(digest):
                    continue
                address = f"{self.request.target.registry}/"
                commands = tuple(each.replace(REGISTRY, address) for each in detail.commands)
                reason = f"{digest} lacks {' and '.join(detail.missing) or 'what a rule of the registry requires'}"
                return replace(self._unsigned(digest, reason, detail.missing, commands), refused=detail)
            return None

    async def _look(self, digest: Digest) -> None:
        if self.request.wait.us:
            self._seen = await self._attached(digest)

    async def _something_added(self, digest: Digest) -> bool:
        """Wait until something more is attached to the image than when it was judged; False when the time is over."""
        loop, wait_s = asyncio.get_running_loop(), self.request.wait.seconds
        if self._deadline_s is None:
            self._deadline_s = loop.time() + wait_s
            if wait_s:
                self.notice(f"waiting up to {self.request.wait} for a signature of {self._by_digest(digest)}")
        while (left_s := self._deadline_s - loop.time()) > 0:
            self.progress("waiting for a signature", int(wait_s - left_s), int(wait_s))
            await asyncio.sleep(min(POLL_S, left_s))
            found = await self._attached(digest)
            if found != self._seen:
                self._seen = found
                return True
        return False

    async def _attached(self, digest: Digest) -> frozenset[Digest]:
        """Return what is attached to the image. A failed look counts as nothing new: the next one may succeed."""
        found = await find_attached(self.registry, [digest], 1)
        return frozenset(each.digest for each in found.found)

    def _unsigned(
        self, digest: Digest, reason: str, missing: tuple[str, ...], commands: tuple[str, ...]
    ) -> PublishReport:
        ref = str(self.request.target)
        return PublishReport(ref, digest, "unsigned", reason, missing, tuple(dict.fromkeys(commands)))

    def _by_digest(self, digest: Digest) -> str:
        return f"{self.request.target.name}@{digest}"
