"""Serve an upstream tag's new digest that a rule (on_move, first_seen) holds back; list what is held back."""

from __future__ import annotations

from dataclasses import dataclass

from boltseal.commands.tag_changes import AcceptResult, HeldResult
from boltseal.errors import Invalid, quote
from boltseal.oci.digest_prefix import DigestPrefix
from boltseal.oci.reference import Reference, Repository, Tag
from boltseal.server.commands.data_folder import local_admin, on_store
from boltseal.server.settings import Settings


@dataclass(frozen=True, slots=True)
class TagToAccept:
    """A tag of a mirrored registry. `digest`: of the only one to accept, or its prefix; None: whatever is held back."""

    repository: Repository
    tag: Tag
    digest: DigestPrefix | None = None

    def __str__(self) -> str:
        return f"{self.repository}:{self.tag}"


def accept_tag(settings: Settings, tag: TagToAccept, reason: str) -> AcceptResult:
    """Serve the digest that is held back of a tag. Raises: NotFound: none is, or another one."""
    noted = on_store(
        settings,
        lambda store: store.registry.observations.accept(
            tag.repository, tag.tag, tag.digest, local_admin(), reason.strip()
        ),
    )
    if noted.now is None or noted.now.known.serves is None:
        raise AssertionError("an accepted digest is served")
    before = None if noted.before is None or noted.before.serves is None else noted.before.serves.digest
    return AcceptResult(str(tag), noted.now.known.serves.digest, before, noted.now.entry)


def held_tags(settings: Settings) -> list[HeldResult]:
    """Return the tags of which a digest is held back."""
    found = on_store(settings, lambda store: store.registry.observations.held())
    return [
        HeldResult(
            f"{each.repository}:{each.tag}",
            each.known.held.digest,
            None if each.known.serves is None else each.known.serves.digest,
            each.known.held_us or 0,
        )
        for each in found
        if each.known.held is not None
    ]


def upstream_tag(text: str, settings: Settings) -> TagToAccept:
    """Parse a tag of a mirrored registry: `docker.io/library/node:16.13`, also behind this registry's host.

    Raises: Invalid: not of a configured upstream, or no tag.
    """
    names = {terms.name for terms in settings.upstreams}
    name, at, digest = text.partition("@")
    reference = Reference.parse(name)
    if reference.registry in names:
        repository = Repository(reference.name)
    elif reference.repository.partition("/")[0] in names:
        repository = reference.repository
        if repository.startswith("docker.io/") and "/" not in repository.removeprefix("docker.io/"):
            repository = Repository(f"docker.io/library/{repository.removeprefix('docker.io/')}")
    else:
        known = ", ".join(sorted(names)) or "there is no [[upstream]]"
        raise Invalid(f"{quote(text)} is of no registry that is mirrored here ({known})")
    if reference.tag is None:
        raise Invalid(f"{quote(text)} has no tag; expected one, such as {repository}:1.4.2")
    return TagToAccept(repository, Tag(reference.tag), DigestPrefix.parse(digest) if at else None)
