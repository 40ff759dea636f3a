"""Check whether a tag may be published: one HEAD, at any registry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from boltseal.client.errors import RemoteNotFound
from boltseal.client.registry_client import RegistryClient
from boltseal.client.transport import Transport
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable, RegistryOptions, ask_followed
from boltseal.oci.digest import Digest
from boltseal.oci.digest_prefix import DigestPrefix
from boltseal.oci.reference import Reference, Tag


class TagStatus(StrEnum):
    """Whether a tag is in use."""

    FREE = "free"
    SAME = "same"
    """The tag resolves to the image to publish, or did and can again."""
    TAKEN = "taken"
    DELETED = "deleted"
    """A tombstone: it can only come back with its old digest."""


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """A tag to check. `digest`: of the image to publish, or a prefix of it; None: any image."""

    reference: Reference
    tag: Tag
    digest: DigestPrefix | None

    @classmethod
    def parse(cls, ref: str, digest: str | None) -> CheckRequest:
        """Parse a reference with a tag, and a digest that is in it or beside it. Raises: ReferenceUnsuitable."""
        reference = Reference.parse(ref)
        if reference.tag is None:
            raise ReferenceUnsuitable(f"the reference has no tag; expected one, such as {reference.name}:1.4.2")
        if digest is not None and reference.digest is not None:
            raise ReferenceUnsuitable("the digest is given twice: in the reference and by --digest; give it once")
        text = digest if digest is not None or reference.digest is None else str(reference.digest)
        wanted = None if text is None else DigestPrefix.parse(text)
        return cls(replace(reference, digest=None), reference.tag, wanted)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The state of a tag. `digest`: of its image or tombstone, as the registry wrote it.

    `settles`: when a settling tag is sealed, as the registry wrote it; "" for every other tag.
    """

    reference: Reference
    status: TagStatus
    digest: str | None
    settles: str = ""

    @property
    def outcome(self) -> Outcome:
        """HOLDS if the tag may be published."""
        return Outcome.HOLDS if self.status in (TagStatus.FREE, TagStatus.SAME) else Outcome.DIFFERS

    @property
    def reason(self) -> str:
        """The status as a sentence."""
        return self._status + (f"; it is settling: not sealed before {self.settles}" if self.settles else "")

    @property
    def _status(self) -> str:
        match self.status:
            case TagStatus.FREE:
                return "free: it may be published"
            case TagStatus.SAME:
                return f"may be published: it is {self.digest} already, or was and can be again"
            case TagStatus.DELETED:
                return f"not free: it was deleted, and can come back only as {self.digest}"
            case TagStatus.TAKEN:
                return f"taken: it resolves to {self.digest}"


def check_tag(request: CheckRequest, options: RegistryOptions) -> CheckResult:
    """Ask a registry for a tag. Raises: LedgerBroken, RemoteUnavailable and other errors of the registry client."""
    reference = request.reference
    found = ask_followed(options, [reference.registry], lambda transport: _state(transport, request))
    if request.digest is not None and found.digest is not None and request.digest.fits(Digest.parse(found.digest)):
        return replace(found, status=TagStatus.SAME)
    return found


async def _state(transport: Transport, request: CheckRequest) -> CheckResult:
    reference = request.reference
    try:
        resolved = await RegistryClient(transport, reference.registry).resolve(reference.repository, request.tag)
    except RemoteNotFound as missing:
        if missing.bound is None:
            return CheckResult(reference, TagStatus.FREE, None)
        return CheckResult(reference, TagStatus.DELETED, missing.bound)
    return CheckResult(reference, TagStatus.TAKEN, str(resolved.digest), resolved.settles)
