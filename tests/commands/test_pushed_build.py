"""What a build pushed is checked, and its layers are known to later scans without a request."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.document_cache import DocumentCache
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport, TransportOptions
from boltseal.commands.pushed_build import pushed_build
from boltseal.errors import Unavailable
from boltseal.oci.digest import Digest
from boltseal.oci.platform import Platform
from boltseal.oci.reference import Reference
from boltseal.project.bases.image_documents import ImageDocuments, RemoteRepository
from boltseal.project.bases.image_facts import INPUTS
from tests.project.bases.published import NOW_US, Published

IMAGE = Reference.parse("reg.test/base/rt:1")


@pytest.fixture
def registry(tmp_path: Path) -> Published:
    return Published(tmp_path / "state")


async def pushed(registry: Published, state: Path) -> Digest:
    transport = Transport(CredentialStore(()), TransportOptions(attempts=1), app=registry.hub.transport())
    try:
        return await pushed_build(transport, ClientState(state), NOW_US, IMAGE, "hash")
    finally:
        await transport.aclose()


async def test_the_layers_of_a_pushed_image_are_known_without_a_request(registry: Published) -> None:
    """After a build, manifest, config and the tag's resolution are in learned.db, for each platform of an index."""
    parts = {
        name: registry.image("base/rt", "", f"o{name[0]}", architecture=name, labels={INPUTS: "hash"})
        for name in ("amd64", "arm64")
    }
    digest = registry.index("base/rt", "1", parts)
    found = await pushed(registry, registry.state)
    nowhere = Transport(CredentialStore(()), TransportOptions(attempts=1))
    with DocumentCache(ClientState(registry.state), now_us=NOW_US) as learned:
        documents = ImageDocuments(nowhere, learned).cached_only()
        remote = RemoteRepository(IMAGE.registry, IMAGE.repository)
        facts = [await documents.facts_for(remote, digest, Platform("linux", name)) for name in parts]
        [seen] = learned.past(IMAGE)
    await nowhere.aclose()

    assert found == digest
    assert [len(each.diff_ids) for each in facts if each is not None] == [2, 2]
    assert (seen.digest, seen.first_us) == (digest, NOW_US)


async def test_an_image_of_other_inputs_is_refused_and_not_kept(registry: Published) -> None:
    """If another push moved the tag meanwhile, the build is refused, and nothing of that image is kept."""
    registry.image("base/rt", "1", "or", labels={INPUTS: "other"})
    with pytest.raises(Unavailable, match="another push changed it"):
        await pushed(registry, registry.state)
    with DocumentCache(ClientState(registry.state), now_us=NOW_US) as learned:
        assert learned.past(IMAGE) == ()


async def test_a_state_folder_that_cannot_be_written_does_not_fail_a_build(registry: Published, tmp_path: Path) -> None:
    """The image was pushed and checked; without a usable state folder only the cache is missing."""
    digest = registry.image("base/rt", "1", "or", labels={INPUTS: "hash"})
    (tmp_path / "file").write_text("no folder")

    assert await pushed(registry, tmp_path / "file") == digest
