"""Attacks on rules with `require`: evidence that is no evidence, or that disappears while it is judged."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import httpx2
import pytest

from boltseal.oci.digest import Digest
from boltseal.oci.reference import Repository, Tag
from boltseal.policy.rules import Rule as PolicyRule
from boltseal.policy.seal import Identity
from boltseal.server.auth.actor import ANONYMOUS
from boltseal.server.registry.evidence_checks import CHECKS_AT_ONCE, EvidenceChecks
from boltseal.server.registry.manifests import Manifests
from boltseal.server.registry.models import UNCONDITIONAL, JudgedEvidence, ManifestUpload
from boltseal.server.registry.required_evidence import EvidenceChanged
from boltseal.server.registry.tag_refusals import TagUnsigned
from boltseal.server.registry.tag_writer import TagWriter
from boltseal.signatures.certificate_chains import Authorities
from boltseal.signatures.evidence import MAX_LAYERS, MAX_MANIFESTS
from boltseal.signatures.sigstore_bundle import BUNDLE
from boltseal.signatures.simple_signing import SIMPLE_SIGNING
from boltseal.signatures.trusted_root import TrustedRoot
from tests.bare_registry import OCI, SHOP, BareRegistry, Opener
from tests.images import Blob, Document, artifact, image, meaning, push, put, signature_tag
from tests.serving import Rule, serving
from tests.signatures.signed_documents import bundled, signatures, signed
from tests.signatures.signers import Signer, encoded, simple_payload, statement

RELEASE, MALLORY = Signer.on_p256(), Signer.on_p256()
IMAGE, OTHER = image("honest"), image("other")
PAYLOAD = simple_payload(Digest.parse(IMAGE.digest), "localhost:5000/shop/app")


@pytest.fixture
def rules(tmp_path: Path) -> Sequence[Rule]:
    """Return a rule that requires a signature by RELEASE."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    return [{"require": [{"key": str(tmp_path / "release.pub")}]}]


LIES = {
    "another key": signed(IMAGE, MALLORY),
    "another image": signed(OTHER, RELEASE),
    "another repository": signed(IMAGE, RELEASE, "shop/other"),
    "no signature": signatures((Blob(PAYLOAD, SIMPLE_SIGNING), "")),
    "another media type": signatures((Blob(PAYLOAD, "application/json"), RELEASE.signature_of(PAYLOAD))),
    "a large payload": signatures(
        (Blob(PAYLOAD + b" " * 65_536, SIMPLE_SIGNING), RELEASE.signature_of(PAYLOAD + b" " * 65_536))
    ),
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES.keys())
async def test_a_lie_under_the_signature_tag_gives_no_tag(data: Path, rules: Sequence[Rule], lie: Document) -> None:
    """Whatever is stored under the signature tag, only a signature of this image by the key counts."""
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        await push(registry.client, "shop/app", signature_tag(IMAGE), lie)
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)
        stands = await meaning(registry.client, "shop/app", "1.4.2")

    assert answer.status_code == 409
    assert answer.json()["errors"][0]["detail"]["reason"] == "unsigned"
    assert stands is None


async def test_a_bundle_of_another_image_gives_no_tag(data: Path, rules: Sequence[Rule]) -> None:
    """The subject of the manifest is a claim of its pusher; the signed statement counts."""
    lie = bundled(OTHER, RELEASE)
    moved = Document(
        lie.raw.replace(OTHER.digest.encode(), IMAGE.digest.encode()).replace(
            f'"size":{len(OTHER.raw)}'.encode(), f'"size":{len(IMAGE.raw)}'.encode()
        ),
        lie.media_type,
        lie.blobs,
    )
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        added = await push(registry.client, "shop/app", moved.digest, moved)
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert added.headers["OCI-Subject"] == IMAGE.digest
    assert answer.status_code == 409


async def test_a_signature_in_another_repository_gives_no_tag(data: Path, rules: Sequence[Rule]) -> None:
    """Repositories are isolated: evidence counts where it is stored."""
    async with serving(data, rules) as registry:
        for repository in ("shop/app", "shop/other"):
            await push(registry.client, repository, IMAGE.digest, IMAGE)
        await push(registry.client, "shop/other", signature_tag(IMAGE), signed(IMAGE, RELEASE))
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert answer.status_code == 409


async def test_many_false_signatures_hide_the_true_one_and_give_nothing(data: Path, rules: Sequence[Rule]) -> None:
    """An attacker who may push can delay a tag by a flood of layers, and never gets one."""
    flood = [(Blob(PAYLOAD, SIMPLE_SIGNING), MALLORY.signature_of(PAYLOAD)) for _ in range(MAX_LAYERS)]
    true = (Blob(PAYLOAD, SIMPLE_SIGNING), RELEASE.signature_of(PAYLOAD))
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        await push(registry.client, "shop/app", signature_tag(IMAGE), signatures(*flood, true))
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert answer.status_code == 409


async def test_signatures_among_other_referrers_are_found(data: Path, rules: Sequence[Rule]) -> None:
    """Referrers without layers of a known format are passed over."""
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        for number in range(20):
            sbom = artifact(f"sbom {number}", subject=IMAGE)
            await push(registry.client, "shop/app", sbom.digest, sbom)
        await _push_by_digest(registry.client, bundled(IMAGE, RELEASE))
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert answer.status_code == 201


@pytest.mark.parametrize(
    ("count", "artifact_type", "note_bytes"),
    [(MAX_MANIFESTS + 20, "application/spdx+json", 1), (4, BUNDLE, 4_000_000)],
    ids=["many", "large"],
)
async def test_other_referrers_hide_no_signature(
    open_shop: Opener, tmp_path: Path, count: int, artifact_type: str, note_bytes: int
) -> None:
    """Hundreds of scan results, or a few referrers of megabytes, come before the signature in the list, and it is found."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    shop = open_shop({"tag": "[0-9]*", "require": [{"key": "release.pub"}]})
    body = await shop.image("much attached")
    digest = Digest.of(body)
    await shop.push(body, digest)
    about = {"subject": {"mediaType": OCI, "digest": str(digest), "size": len(body)}}
    empty = json.loads(await shop.image("empty")) | about | {"artifactType": artifact_type, "layers": []}
    layer = await shop.blob(encoded(RELEASE.bundle(encoded(statement(digest))))) | {"mediaType": BUNDLE}
    true = next(
        raw
        for number in range(10_000)
        if Digest.of(
            raw := encoded(empty | {"artifactType": BUNDLE, "layers": [layer], "annotations": {"n": str(number)}})
        ).hex.startswith("ff")
    )
    await shop.push(true, Digest.of(true))
    for number in range(count):
        other = encoded(empty | {"annotations": {"n": f"{number} {'x' * note_bytes}"}})
        await shop.push(other, Digest.of(other))

    assert (await shop.push(body, "1.4.2")).tags == (Tag("1.4.2"),)


class _Counting(EvidenceChecks):
    """Counts the checks that are in progress. `most`: at one time."""

    in_progress, most = 0, 0

    async def _judged(
        self,
        repository: Repository,
        image: Identity,
        decided: Mapping[int, PolicyRule],
        roots: Iterable[TrustedRoot | Authorities],
    ) -> JudgedEvidence:
        self.in_progress += 1
        self.most = max(self.most, self.in_progress)
        try:
            return await super()._judged(repository, image, decided, roots)
        finally:
            self.in_progress -= 1


async def test_a_few_checks_at_once_have_evidence_in_memory(open_shop: Opener, tmp_path: Path) -> None:
    """Of twenty checks at once a few have their evidence in memory, up to 32 MiB each, and the others wait."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    shop = open_shop({"require": [{"key": "release.pub"}]})
    checks = _Counting(shop.registry.rules, shop.registry.pulls)
    image_ = Identity(Digest.of(b"image"), OCI)
    judged = await asyncio.gather(*(checks.judged(SHOP, image_, (Tag("1.4.2"),)) for _ in range(20)))

    assert all(each is not None and each.verdicts[1].missing for each in judged)
    assert checks.most == CHECKS_AT_ONCE


async def _push_by_digest(client: httpx2.AsyncClient, document: Document) -> None:
    answer = await push(client, "shop/app", document.digest, document)
    assert answer.status_code == 201


class _Deleting(EvidenceChecks):
    """Judges evidence, and then lets its pusher delete it, `times` times."""

    def __init__(self, shop: BareRegistry, times: int) -> None:
        super().__init__(shop.registry.rules, shop.registry.pulls)
        self.shop, self.times, self.judged_times = shop, times, 0

    async def judged(self, repository: Repository, image: Identity, tags: Sequence[Tag]) -> JudgedEvidence | None:
        found = await super().judged(repository, image, tags)
        self.judged_times += 1
        if found is not None and self.times:
            self.times -= 1
            for verdict in found.verdicts.values():
                for digest in verdict.manifests:
                    await self.shop.registry.deletes.manifest(repository, digest, UNCONDITIONAL, ANONYMOUS)
        return found


async def _pushed_while_deleting(shop: BareRegistry, signatures_count: int, deleted: int) -> tuple[str, int]:
    """Push a signed image while its evidence is deleted. Return what became of it, and how often it was judged."""
    body = await shop.image("raced")
    digest = Digest.of(body)
    await shop.push(body, digest)
    for number in range(signatures_count):
        payload = encoded(RELEASE.bundle(encoded(statement(digest, predicate={"number": number}))))
        layer = await shop.blob(payload) | {"mediaType": BUNDLE}
        subject = {"mediaType": OCI, "digest": str(digest), "size": len(body)}
        manifest = await shop.image(f"signature {number}", subject=subject)
        raw = encoded(json.loads(manifest) | {"layers": [layer]})
        await shop.push(raw, Digest.of(raw))
    checks = _Deleting(shop, deleted)
    manifests = Manifests(
        shop.database,
        TagWriter(shop.registry.rules),
        shop.registry.refusals,
        pulls=shop.registry.pulls,
        evidence=checks,
    )
    try:
        await manifests.put(ManifestUpload(SHOP, Tag("1.4.2"), body, OCI, ANONYMOUS))
    except (TagUnsigned, EvidenceChanged) as error:
        return type(error).__name__, checks.judged_times
    return "published", checks.judged_times


@pytest.mark.parametrize(
    ("signatures_count", "deleted", "expected"),
    [
        (1, 0, ("published", 1)),
        (1, 1, ("TagUnsigned", 2)),
        (2, 1, ("published", 2)),
        (3, 3, ("EvidenceChanged", 3)),
        (4, 2, ("published", 3)),
    ],
)
async def test_evidence_that_is_deleted_meanwhile_is_judged_again(
    open_shop: Opener, tmp_path: Path, signatures_count: int, deleted: int, expected: tuple[str, int]
) -> None:
    """What was verified before the transaction is stored at its end, or the image is judged again, three times at most."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    shop = open_shop({"tag": "[0-9]*", "require": [{"key": "release.pub"}]})

    assert await _pushed_while_deleting(shop, signatures_count, deleted) == expected


async def test_a_judgement_by_other_rules_is_none(open_shop: Opener, tmp_path: Path) -> None:
    """A tag writer accepts only what was judged by its own rules."""
    (tmp_path / "release.pub").write_bytes(RELEASE.pem)
    shop, other = (open_shop({"require": [{"key": "release.pub"}]}) for _ in range(2))
    body = await shop.image("judged elsewhere")
    checks = EvidenceChecks(other.registry.rules, other.registry.pulls)
    manifests = Manifests(shop.database, TagWriter(shop.registry.rules), shop.registry.refusals, evidence=checks)

    with pytest.raises(EvidenceChanged, match="by the rules in force"):
        await manifests.put(ManifestUpload(SHOP, Tag("1.4.2"), body, OCI, ANONYMOUS))
