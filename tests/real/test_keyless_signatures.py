"""Debian's cosign gives the same verdict as boltseal on the same keyless bundles, offline, under the same trusted root."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.images import Document, image, push, put
from tests.real.registry import Registry
from tests.real.tools import run
from tests.signatures.signed_documents import keyless
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority, Signing, TimeStampAuthority

pytestmark = pytest.mark.real

APP, OTHER = image("verified by both"), image("another")
PROVENANCE = "https://slsa.dev/provenance/v1"
LATE = (-9000, -8400)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """All services, with a time-stamp authority."""
    return Authority(TimeStampAuthority.at(tmp_path_factory.mktemp("services") / "time"))


@pytest.fixture
def root(tmp_path: Path, authority: Authority) -> Path:
    """The file of the trusted root."""
    path = tmp_path / "trusted_root.json"
    path.write_bytes(authority.trusted_root())
    return path


@pytest.fixture
def strict(tmp_path: Path, root: Path) -> Iterator[Registry]:
    """A registry that requires a provenance of the identity for every tag."""
    who = f'identity = "{IDENTITY}", issuer = "{ISSUER}", trusted_root = "{root}"'
    config = f'[[rule]]\nrequire = [{{ predicate = "slsaprovenance", {who} }}]\n'
    with servers.boltseal(tmp_path / "data", config=config) as server:
        yield Registry(server)


def cosign_verifies(root: Path, evidence: Document) -> tuple[bool, str]:
    """Return whether cosign verifies a provenance of the image by the identity, and what it printed.

    The manifest is the file that the statement is about. Debian's `cosign verify-attestation` asks for roots of the internet
    also with --trusted-root.
    """
    manifest, bundle = root.with_name("manifest.json"), root.with_name("bundle.json")
    manifest.write_bytes(APP.raw)
    bundle.write_bytes(evidence.blobs[-1].data)
    result = run(
        *("cosign", "verify-blob-attestation", "--new-bundle-format", "--trusted-root", root, "--bundle", bundle),
        *(
            "--certificate-identity",
            IDENTITY,
            "--certificate-oidc-issuer",
            ISSUER,
            "--type",
            "slsaprovenance1",
            manifest,
        ),
    )
    return result.ok, result.text


async def both(strict: Registry, root: Path, evidence: Document) -> tuple[bool, bool, str]:
    """Push evidence; return whether boltseal gives a tag, whether cosign verifies it, and what both printed."""
    async with httpx2.AsyncClient(base_url=strict.server.url, trust_env=False, timeout=120) as client:
        for document in (APP, evidence):
            (await push(client, "shop/app", document.digest, document)).raise_for_status()
        tagged = await put(client, "shop/app", "1.4.2", APP)
    verified, text = cosign_verifies(root, evidence)
    return tagged.status_code == 201, verified, f"{tagged.text}\n{text}"


def provenance(authority: Authority, how: Signing, about: Document | None = None) -> Document:
    return keyless(APP, authority, how, PROVENANCE, {"buildDefinition": {}, "runDetails": {}}, about)


CASES = {
    "good": (Signing(), True),
    "good, years later": (Signing(valid_s=LATE, integrated_s=-8700), True),
    "good, with a time stamp": (Signing(stamped=True), True),
    "another identity": (Signing(identity=IDENTITY + "x"), False),
    "another issuer": (Signing(issuer="https://evil.example"), False),
    "expired": (Signing(valid_s=LATE), False),
    "not in the log of certificates": (Signing(sct=False), False),
}


@pytest.mark.parametrize(("how", "holds"), CASES.values(), ids=CASES.keys())
async def test_cosign_gives_the_same_verdict(
    strict: Registry, root: Path, authority: Authority, how: Signing, holds: bool
) -> None:
    """A tag is given exactly where cosign verifies the bundle."""
    tagged, verified, text = await both(strict, root, provenance(authority, how))

    assert (tagged, verified) == (holds, holds), text


async def test_both_refuse_services_that_the_root_does_not_have(strict: Registry, root: Path) -> None:
    """Other services sign the same identity."""
    tagged, verified, text = await both(strict, root, provenance(Authority(), Signing()))

    assert (tagged, verified) == (False, False), text


async def test_both_refuse_a_statement_about_another_image(strict: Registry, root: Path, authority: Authority) -> None:
    """The identity signed the other image."""
    tagged, verified, text = await both(strict, root, provenance(authority, Signing(), OTHER))

    assert (tagged, verified) == (False, False), text
