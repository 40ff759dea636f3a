"""The verified level of an image: by which evidence, and only through documents with the right digests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.errors import Invalid
from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.evidence import ReceiptWithoutTag, expectation_of_receipt, expectations_of_lock
from boltseal.host.scrub.plans import ImagePlan
from boltseal.host.scrub.trust import Expectation, ExpectedPrefix, Level, judge, names_image
from boltseal.ledger.entry import EntryKind
from boltseal.ledger.note import SigningKey
from boltseal.lockfile.document import Lock, LockedImage, LockedPlatform
from boltseal.oci.digest import Digest
from boltseal.oci.mediatype import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST
from boltseal.oci.reference import Reference
from tests.fakes.attestations import Attester
from tests.fakes.ledger import FakeLedger
from tests.host.scrub.receipts import KEY, receipt

CONFIG = Digest.of(b"config")
OTHER = Digest.of(b"another config")
NAME = "reg.example/shop/app:1.4.2"


def described(raw: bytes, media_type: str) -> dict[str, object]:
    return {"mediaType": media_type, "digest": str(Digest.of(raw)), "size": len(raw)}


def manifest(config: bytes) -> bytes:
    document = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": described(config, OCI_CONFIG), "layers": []}
    return json.dumps(document).encode()


def index(*manifests: bytes) -> bytes:
    document = {"schemaVersion": 2, "manifests": [described(each, OCI_MANIFEST) for each in manifests]}
    return json.dumps({**document, "mediaType": OCI_INDEX}).encode()


MANIFEST = manifest(b"config")
INDEX = index(manifest(b"another config"), MANIFEST)


def documents(*raw: bytes) -> dict[Digest, bytes]:
    return {Digest.of(each): each for each in raw}


def image(*held: bytes, config: Digest = CONFIG, names: tuple[str, ...] = (NAME,)) -> ImagePlan:
    """Return an image of a store that has these documents."""
    return ImagePlan("test", Path("/"), config, config, names, documents=documents(*held))


def by_digest(digest: Digest) -> Expectation:
    return Expectation(digest, Level.L1, "a pin", of_manifest=True)


def test_without_an_expectation_the_level_is_l0() -> None:
    """Without an expected digest the level is L0: the image is only consistent in itself."""
    assert judge(image(), None, {}).level is Level.L0


@pytest.mark.parametrize("digest", [CONFIG, Digest.of(MANIFEST), Digest.of(INDEX)], ids=["id", "manifest", "index"])
def test_a_digest_proves_the_config_it_refers_to(digest: Digest) -> None:
    """An expected digest proves the config through an index and a manifest, wherever they are stored."""
    kept, given = judge(image(MANIFEST, INDEX), by_digest(digest), {}), judge(
        image(), by_digest(digest), documents(MANIFEST, INDEX)
    )  # fmt: skip

    assert (kept.level, kept.differences) == (Level.L1, ())
    assert (given.level, given.differences) == (Level.L1, ())


@pytest.mark.parametrize("digest", [CONFIG, Digest.of(MANIFEST), Digest.of(INDEX)], ids=["config", "manifest", "index"])
def test_the_first_digits_of_each_digest_of_an_image_match(digest: Digest) -> None:
    """The first digits of an image's ID, manifest or index match the image, and those of another image do not."""
    held = image(MANIFEST, INDEX)

    judged = judge(held, ExpectedPrefix(digest.hex[:40], "--expect"), {})
    other = judge(held, ExpectedPrefix(OTHER.hex[:12], "--expect"), {})

    assert (judged.level, judged.differences) == (Level.L1, ())
    assert [each.kind for each in other.differences] == [DifferenceKind.MANIFEST]


def test_a_digest_of_another_image_is_a_difference() -> None:
    """An expected digest of another image is a difference that names the expected image."""
    found = judge(image(config=OTHER), by_digest(Digest.of(MANIFEST)), documents(MANIFEST))

    assert found.level is Level.L0
    assert str(CONFIG) in found.differences[0].expected


def test_a_document_with_another_digest_is_ignored() -> None:
    """A document whose content does not have the digest in its file name is ignored."""
    forged = {Digest.of(MANIFEST): manifest(b"another config")}
    plan = ImagePlan("test", Path("/"), OTHER, OTHER, (NAME,), documents=forged)

    assert judge(plan, by_digest(Digest.of(MANIFEST)), {}).level is Level.L0


def test_a_missing_manifest_could_not_be_checked() -> None:
    """If a manifest is missing, the image could not be checked, which is no difference."""
    found = judge(image(), by_digest(Digest.of(MANIFEST)), {})

    assert (found.level, found.differences) == (Level.L0, ())
    assert "--documents" in found.unknown[0]


def test_a_list_of_digests_in_the_store_itself_proves_nothing() -> None:
    """Docker's record of a pulled digest proves nothing, since an attacker can change it."""
    digest = Digest.of(MANIFEST)
    found = judge(image(names=(NAME, f"reg.example/shop/app@{digest}")), by_digest(digest), {})

    assert found.level is Level.L0
    assert found.unknown


def test_a_receipt_proves_the_digest_of_its_entry() -> None:
    """A receipt proves its entry's digest at level L2, with the entry's index."""
    expected = expectation_of_receipt(receipt(Digest.of(MANIFEST)), KEY.verifier)
    found = judge(image(MANIFEST), expected, {})

    assert (found.level, found.differences) == (Level.L2, ())
    assert "entry 0 of the ledger reg.example/ledger" in found.by


def test_a_tag_on_another_image_than_in_the_ledger_differs() -> None:
    """A local tag on another image than in the ledger is a difference."""
    expected = expectation_of_receipt(receipt(Digest.of(MANIFEST)), KEY.verifier)
    (found,) = judge(image(config=OTHER), expected, documents(MANIFEST)).differences

    assert found.kind == "tag"
    assert (str(CONFIG) in found.expected, str(OTHER) in found.got) == (True, True)


def test_a_receipt_by_another_key_proves_nothing() -> None:
    """A receipt signed by another key proves nothing, since an attacker can make both."""
    with pytest.raises(Invalid):
        expectation_of_receipt(receipt(CONFIG), SigningKey(KEY.name, b"m" * 32).verifier)


def test_a_statement_with_a_receipt_is_evidence_like_the_receipt() -> None:
    """What was attached to an image, or written by --in-toto, is read too, and only under the key of the ledger."""
    ledger, attester = FakeLedger(), Attester()
    ledger.push("1.4.2", digest=str(Digest.of(MANIFEST)))
    raw = attester.attest(ledger, 1, attester.announce(ledger))

    assert expectation_of_receipt(raw, ledger.key.verifier).digest == Digest.of(MANIFEST)
    with pytest.raises(Invalid, match="none of the trusted keys"):
        expectation_of_receipt(raw, KEY.verifier)


def test_a_receipt_of_a_deletion_is_refused() -> None:
    """A receipt of a deletion, which resolves no tag, is refused and not ignored."""
    with pytest.raises(ReceiptWithoutTag):
        expectation_of_receipt(receipt(CONFIG, EntryKind.TAG_DELETED), KEY.verifier)


@pytest.mark.parametrize(
    ("name", "applies"),
    [
        ("localhost:5000/shop/app:1.4.2", True),
        ("shop/app:1.4.2", True),
        ("shop/app:1.4.3", False),
        ("shop/other:1.4.2", False),
        ("shop/app@sha256:" + "a" * 64, False),
        ("not a name", False),
    ],
)
def test_a_receipt_applies_only_to_its_tag(name: str, applies: bool) -> None:
    """A receipt applies to its repository and tag; the registry may differ, as for a mirror."""
    assert expectation_of_receipt(receipt(CONFIG), KEY.verifier).about(name) is applies


def lock(image_id: Digest | None) -> Lock:
    platform = LockedPlatform("linux/amd64", Digest.of(MANIFEST), image_id)
    locked = LockedImage(Reference.parse(NAME), Digest.of(INDEX), 1_795_000_000_000_000, OCI_INDEX, (platform,))
    return Lock((locked,))


def test_a_lock_proves_an_image_by_its_id() -> None:
    """A lock proves an image in Docker's classic store by the platform's image ID."""
    (expected,) = expectations_of_lock(lock(CONFIG))

    assert judge(image(), expected, {}).level is Level.L1
    assert judge(image(config=OTHER), expected, {}).differences
    assert expected.about(NAME)
    assert not expected.about("other.example/shop/app:1.4.2")


def test_an_entry_of_a_pin_says_nothing_about_its_tag() -> None:
    """If files pin a tag to another digest than its entry has, the host's image of that tag is not expected to be the pin."""
    pin = Digest.of(b"another")
    (image,) = lock(CONFIG).images
    own = LockedImage(replace(image.reference, digest=pin), pin, image.first_seen_us)

    assert expectations_of_lock(Lock((image, own))) == expectations_of_lock(lock(CONFIG))


def test_a_lock_without_image_ids_proves_an_image_by_its_manifest() -> None:
    """A lock without image IDs proves an image by the platform's manifest or the index."""
    (expected,) = expectations_of_lock(lock(None))

    assert judge(image(MANIFEST), expected, {}).level is Level.L1
    assert judge(image(), expected, {}).unknown


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("shop/app:1", "docker.io/shop/app:1"),
        ("app", "docker.io/library/app:latest"),
        ("app", "app:latest"),
        ("app:1", "localhost/app:1"),
        ("localhost:5000/app:1", "localhost:5000/app:1"),
        ("app:1@sha256:" + "a" * 64, "app:1"),
        ("app@sha256:" + "a" * 64, "app:1"),
        (CONFIG.hex, "app:1"),
        (CONFIG.hex[:12], "app:1"),
        (str(CONFIG), "app:1"),
        ("app", "app"),
        (f"app@{CONFIG}", "app"),
    ],
)
def test_an_image_is_selected_by_name_or_id(typed: str, name: str) -> None:
    """An image is selected by a name as engines write it, or by a prefix of its ID."""
    assert names_image(typed, image(names=(name,)))


@pytest.mark.parametrize("typed", ["app:2", "other:1", "localhost:5000/app:1", "0" * 12])
def test_another_name_is_another_image(typed: str) -> None:
    """An image under another name is not selected."""
    assert not names_image(typed, image(names=("app:1",)))
