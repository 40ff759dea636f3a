"""Changes of the tags of a registry over its admin API, by the user who is logged in there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import msgspec

from boltseal.client.admin_client import AdminClient
from boltseal.client.errors import RemoteMismatch
from boltseal.commands.admin_connection import AdminConnection
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.tag_changes import (
    AcceptResult,
    HeldResult,
    KeptCopy,
    NamedImage,
    PurgeResult,
    RestoreResult,
    SealResult,
    purge_result,
    required_reason,
)
from boltseal.errors import Invalid, quote
from boltseal.ledger.entry import EntryInvalid, parse_time
from boltseal.oci.digest import Digest, DigestInvalid
from boltseal.oci.reference import HUB, NameInvalid, Reference, Repository, Tag, TagInvalid

T = TypeVar("T")


class _Changed(msgspec.Struct):
    digest: str
    changed: bool
    entry: int
    was: str | None = None


class _Kept(msgspec.Struct):
    repository: str
    digest: str
    reason: str


class _Purged(msgspec.Struct):
    digest: str
    tags: list[str]
    manifests: list[str]
    blobs: list[str]
    kept: list[_Kept]
    plan: str


class _Held(msgspec.Struct):
    repository: str
    tag: str
    digest: str
    since: str
    served: str | None = None


def registry_of(text: str) -> str:
    """Return the host and port of a registry's address, such as `registry.example.com` or `https://registry.example.com`.

    Raises: Invalid: it is no address of a registry.
    """
    host = text.removeprefix("https://").rstrip("/")
    if host.startswith("http://"):
        raise Invalid(f"{quote(text)} is an address without TLS; expected HOST[:PORT], with --plain-http")
    try:
        found = Reference.parse(f"{host}/x").registry
    except (NameInvalid, TagInvalid, DigestInvalid) as error:
        raise Invalid(f"{quote(text)} is no registry; expected HOST[:PORT], such as registry.example.com") from error
    if found != host or found == HUB:
        raise Invalid(f"{quote(text)} is no boltseal registry; expected HOST[:PORT], such as registry.example.com")
    return found


class RegistryTags:
    """`TagChanges` over the admin API of one registry."""

    def __init__(self, options: RegistryOptions, registry: str) -> None:
        self._registry = registry
        self._api = AdminConnection(options, self._registry)

    def seal(self, ref: str, reason: str) -> SealResult:
        """Seal a tag at its current digest."""
        return self._seal("seal", "sealed", ref, reason)

    def unseal(self, ref: str, reason: str) -> SealResult:
        """Allow a sealed tag to be deleted."""
        return self._seal("unseal", "unsealed", ref, reason)

    def restore(self, ref: str, to: str, reason: str) -> RestoreResult:
        """Move a tag back."""
        reason, image = required_reason(reason), self._image(ref)
        fields = {
            "repository": image.repository,
            "tag": image.tag_for("restored", "latest"),
            "to": to,
            "reason": reason,
        }
        done = self._change("restore", f"restore of {image.reference}", fields, _Changed)
        return self._read(
            lambda: RestoreResult(
                image.reference, Digest.parse(done.digest), _digest(done.was), done.changed, done.entry
            )
        )

    def accept(self, ref: str, reason: str) -> AcceptResult:
        """Serve the digest that is held back of an upstream's tag."""
        name, at, digest = ref.partition("@")
        reference = Reference.parse(name)
        repository = reference.repository if reference.registry == self._registry else Repository(reference.name)
        if reference.tag is None:
            raise Invalid(f"{quote(ref)} has no tag; expected one, such as {repository}:1.4.2")
        fields = {
            "repository": repository,
            "tag": reference.tag,
            "digest": digest if at else None,
            "reason": reason.strip(),
        }
        tag = f"{repository}:{reference.tag}"
        done = self._change("accept", f"accept of {tag}", fields, _Changed)
        return self._read(lambda: AcceptResult(tag, Digest.parse(done.digest), _digest(done.was), done.entry))

    def held(self) -> list[HeldResult]:
        """Return the tags of upstreams of which a digest is held back."""

        async def read(client: AdminClient) -> list[_Held]:
            return [item async for item in client.items("held", "held tags", _Held)]

        found = self._api.ask(read)
        return self._read(
            lambda: [
                HeldResult(
                    f"{Repository(each.repository)}:{Tag(each.tag)}",
                    Digest.parse(each.digest),
                    _digest(each.served),
                    parse_time(each.since),
                )
                for each in found
            ]
        )

    def plan_purge(self, ref: str, reason: str) -> PurgeResult:
        """Return what a purge would delete now."""
        return self._purge(ref, {"reason": required_reason(reason), "dry_run": True}, shown_reason="")

    def purge(self, ref: str, reason: str, confirmed: PurgeResult) -> PurgeResult:
        """Delete an image."""
        reason = required_reason(reason)
        return self._purge(ref, {"reason": reason, "plan": confirmed.plan}, shown_reason=reason)

    def _seal(self, name: str, action: str, ref: str, reason: str) -> SealResult:
        reason, image = required_reason(reason), self._image(ref)
        fields = {"repository": image.repository, "tag": image.tag_for(action, "1.4.2"), "reason": reason}
        done = self._change(name, f"{name} of {image.reference}", fields, _Changed)
        return self._read(lambda: SealResult(image.reference, Digest.parse(done.digest), done.changed, done.entry))

    def _purge(self, ref: str, more: Mapping[str, object], *, shown_reason: str) -> PurgeResult:
        image = self._image(ref)
        fields = {"repository": image.repository, "reference": str(image.named), **more}
        done = self._change("purge", f"purge of {image.reference}", fields, _Purged)
        return self._read(
            lambda: purge_result(
                image.reference,
                Digest.parse(done.digest),
                map(Tag, done.tags),
                map(Digest.parse, done.manifests),
                map(Digest.parse, done.blobs),
                (KeptCopy(Repository(each.repository), Digest.parse(each.digest), each.reason) for each in done.kept),
                reason=shown_reason,
                plan=done.plan,
            )
        )

    def _image(self, ref: str) -> NamedImage:
        reference = Reference.parse(ref)
        if reference.registry != self._registry:
            raise Invalid(f"{quote(ref)} is an image of another registry; expected one of {self._registry}")
        return NamedImage.of(reference, ref)

    def _change(self, name: str, what: str, fields: Mapping[str, object], kind: type[T]) -> T:
        plain = {key: str.__str__(value) if isinstance(value, str) else value for key, value in fields.items()}
        shown = f"{self._registry}/{plain['repository']}"
        advice = f"`boltseal history {shown}` shows it, and the command can be run again"
        return self._api.ask(lambda client: client.change(name, what, plain, kind, advice=advice))

    def _read(self, make: Callable[[], T]) -> T:
        """Return a result with parsed digests, names and times. Raises: RemoteMismatch: the answer has invalid ones."""
        try:
            return make()
        except (DigestInvalid, NameInvalid, TagInvalid, EntryInvalid) as error:
            raise RemoteMismatch(f"{self._registry} answered with an invalid value: {error.message}") from error


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest.parse(text)
