"""A rule with `ca` gives a tag only to an image that Notation signed under this authority."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from boltseal.errors import Invalid
from tests.images import Document, error_of, image, index, meaning, push, put
from tests.serving import Rule, serving
from tests.signatures.notation_certificates import root
from tests.signatures.signed_documents import notarized
from tests.signatures.stamp_authority import StampAuthority

BEGIN = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
YEAR = timedelta(days=365)
ROOT = root(begin=BEGIN, end=BEGIN + YEAR)
BUILDER = ROOT.issue(begin=BEGIN, end=BEGIN + YEAR)
IMAGE = image("to be signed")


@pytest.fixture
def rules(tmp_path: Path) -> Sequence[Rule]:
    """Return a rule that requires a signature under ROOT for the tags of versions."""
    (tmp_path / "ca.pem").write_bytes(ROOT.pem)
    return [{"tag": "[0-9]*", "require": [{"ca": str(tmp_path / "ca.pem"), "subject": "C=US, ST=WA, O=acme"}]}]


async def test_an_unsigned_image_gets_no_tag(data: Path, rules: Sequence[Rule]) -> None:
    """The refusal names the certificate that is missing, and the command that adds the signature."""
    async with serving(data, rules) as registry:
        answer = await push(registry.client, "shop/app", "1.4.2", IMAGE)
        code, message = error_of(answer)
        detail = answer.json()["errors"][0]["detail"]

        assert (answer.status_code, code, detail["reason"]) == (409, "DENIED", "unsigned")
        assert "a Notation signature by a certificate of C=US, O=acme, ST=WA under ca.pem" in message
        assert detail["commands"] == [f"notation sign --key KEY REGISTRY/shop/app@{IMAGE.digest}"]


@pytest.mark.parametrize("form", ["jws", "cose"])
@pytest.mark.parametrize("what", ["image", "index"])
async def test_an_image_is_signed_by_digest_and_then_named(
    data: Path, rules: Sequence[Rule], form: str, what: str
) -> None:
    """The steps of `notation sign` and a push of the tag by another client."""
    whole = IMAGE if what == "image" else index(IMAGE)
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", whole.digest, whole)
        signature = notarized(whole, BUILDER, form)
        added = await push(registry.client, "shop/app", signature.digest, signature)
        tagged = await put(registry.client, "shop/app", "1.4.2", whole)
        found = await meaning(registry.client, "shop/app", "1.4.2")

    assert (added.status_code, tagged.status_code, found) == (201, 201, whole.digest)


async def lies(data: Path, rules: Sequence[Rule], *signatures: Document) -> str:
    """Push an image with signatures, then its tag. Return the message of the refusal."""
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        for each in signatures:
            await push(registry.client, "shop/app", each.digest, each)
        answer = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert answer.status_code == 409
    return error_of(answer)[1]


async def test_a_signature_under_another_authority_is_none(data: Path, rules: Sequence[Rule]) -> None:
    """Any client that may push can make an authority of the same name."""
    other = root(begin=BEGIN, end=BEGIN + YEAR).issue(begin=BEGIN, end=BEGIN + YEAR)

    assert "no trusted authority" in await lies(data, rules, notarized(IMAGE, other, "jws"))


async def test_a_certificate_that_expired_is_refused_by_the_servers_clock(data: Path, rules: Sequence[Rule]) -> None:
    """Whatever time its owner writes into the signature."""
    old = ROOT.issue(begin=BEGIN - YEAR, end=BEGIN)

    assert "expired at" in await lies(data, rules, notarized(IMAGE, old, "cose"))


async def test_a_signature_of_another_image_is_none(data: Path, rules: Sequence[Rule]) -> None:
    """The subject of a referrer can be any image; the signed payload counts."""
    other = image("other")
    stolen = notarized(other, BUILDER, "jws", attached_to=IMAGE)

    assert "the signature is of" in await lies(data, rules, stolen)


async def test_a_revoked_certificate_gives_no_new_tag(data: Path, rules: Sequence[Rule], tmp_path: Path) -> None:
    """The tag that it gave before stays; the server reads the list at its start."""
    signature = notarized(IMAGE, BUILDER, "jws")
    async with serving(data, rules) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        await push(registry.client, "shop/app", signature.digest, signature)
        first = await put(registry.client, "shop/app", "1.4.2", IMAGE)
    (tmp_path / "acme.crl").write_bytes(ROOT.crl(BUILDER))
    entry = {"ca": str(tmp_path / "ca.pem"), "crl": str(tmp_path / "acme.crl"), "subject": "*"}
    async with serving(data, [{"tag": "[0-9]*", "require": [entry]}]) as registry:
        again = await put(registry.client, "shop/app", "1.4.2", IMAGE)
        second = await put(registry.client, "shop/app", "1.4.3", IMAGE)

    assert (first.status_code, again.status_code, second.status_code) == (201, 201, 409)
    assert "is revoked" in error_of(second)[1]


async def test_an_expired_certificate_with_a_time_stamp_gives_the_tag(data: Path, tmp_path: Path) -> None:
    """Only with the time stamp of the authority that the rule trusts, and only where it was made before the end."""
    time_root, mallory = (root("C=US, O=acme, CN=time root", begin=BEGIN - YEAR, end=BEGIN + YEAR) for _ in range(2))
    authority, forger = (
        StampAuthority.under(each, tmp_path / name, begin=BEGIN - YEAR, end=BEGIN + YEAR)
        for name, each in (("time", time_root), ("mallory", mallory))
    )
    old_root = root(begin=BEGIN - YEAR, end=BEGIN + YEAR)
    old = old_root.issue(begin=BEGIN - YEAR, end=BEGIN)
    (tmp_path / "ca.pem").write_bytes(old_root.pem)
    (tmp_path / "time.pem").write_bytes(time_root.pem)
    entry = {"ca": str(tmp_path / "ca.pem"), "tsa": str(tmp_path / "time.pem"), "subject": "O=acme"}
    before, after = BEGIN - timedelta(days=1), BEGIN + timedelta(hours=1)
    lies = [
        notarized(IMAGE, old, "jws"),
        notarized(IMAGE, old, "jws", stamping=lambda signature: forger.stated(signature, before)),
        notarized(IMAGE, old, "cose", stamping=lambda signature: authority.stated(signature, after)),
        notarized(IMAGE, old, "cose", stamping=lambda _: authority.stated(b"another signature", before)),
    ]
    good = notarized(IMAGE, old, "jws", stamping=lambda signature: authority.stated(signature, before))
    async with serving(data, [{"tag": "[0-9]*", "require": [entry]}]) as registry:
        await push(registry.client, "shop/app", IMAGE.digest, IMAGE)
        for each in lies:
            await push(registry.client, "shop/app", each.digest, each)
        refused = await put(registry.client, "shop/app", "1.4.2", IMAGE)
        await push(registry.client, "shop/app", good.digest, good)
        tagged = await put(registry.client, "shop/app", "1.4.2", IMAGE)

    assert (refused.status_code, tagged.status_code) == (409, 201), refused.text


async def test_a_server_with_a_wrong_file_does_not_start(data: Path, rules: Sequence[Rule], tmp_path: Path) -> None:
    """A mistake is found before the first push."""
    (tmp_path / "ca.pem").write_bytes(b"no certificate")
    with pytest.raises(Invalid, match="expected certificates"):
        async with serving(data, rules):
            pass
