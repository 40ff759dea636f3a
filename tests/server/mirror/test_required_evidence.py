"""`[[upstream.rule]] require`: a tag of an upstream is served only when the upstream has the evidence that the rule requires."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from boltseal.events import Event, TagHeld
from boltseal.signatures.evidence import MAX_MANIFESTS
from boltseal.signatures.sigstore_bundle import BUNDLE
from tests.fakes.upstream import Asked, FakeUpstream, status
from tests.images import OCI_INDEX, OCI_MANIFEST, Document, error_of, image, push, put, signature_tag
from tests.server.mirror.mirrors import NAME, mirroring
from tests.server.mirror.observed import observed, story
from tests.server.mirror.push_proxies import APP, HEAD, entries, reserved, tags_upstream
from tests.signatures.notation_certificates import root
from tests.signatures.signed_documents import bundled, keyless, notarized, signed
from tests.signatures.signers import Signer
from tests.signatures.sigstore_services import IDENTITY, ISSUER, Authority

VENDOR, MALLORY = Signer.on_p256(), Signer.on_p256()
ONE, TWO = image("one"), image("two")


@pytest.fixture
def rule(tmp_path: Path) -> list[dict[str, Any]]:
    """Return a rule that requires a signature by VENDOR for every tag, and that ends a hold after a week."""
    (tmp_path / "vendor.pub").write_bytes(VENDOR.pem)
    require = [{"key": str(tmp_path / "vendor.pub")}]
    return [{"on_move": "hold", "cooldown": "1s", "require": require}, {"tag": "*"}]


async def pull(client: httpx2.AsyncClient, tag: str = "1.4.2") -> httpx2.Response:
    return await client.get(f"/v2/{NAME}/team/app/manifests/{tag}")


def sign(upstream: FakeUpstream, subject: Document, signer: Signer, repository: str = "team/app") -> None:
    """Put a signature under cosign's tag at the upstream."""
    upstream.publish("team/app", signature_tag(subject), signed(subject, signer, repository))


def attach(upstream: FakeUpstream, subject: Document, evidence: Document) -> None:
    """Push a bundle as a referrer to the upstream, in place of others."""
    bundle = upstream.publish("team/app", None, evidence)
    listed = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [bundle.descriptor()]}
    upstream.referrers[subject.digest] = json.dumps(listed).encode()


async def test_a_new_tag_is_held_until_it_is_signed(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """An unsigned tag that was never seen is refused with the reason, and served as soon as the upstream has the signature."""
    reported: list[Event] = []
    upstream.publish("team/app", "1.4.2", ONE)
    unconditional = [{**rule[0], "on_move": "follow"}]
    del unconditional[0]["cooldown"]
    async with mirroring(data, upstream, rule=unconditional, on_event=reported.append) as mirror:
        before = await pull(mirror.client)
        sign(upstream, ONE, MALLORY)
        forged = await pull(mirror.client)
        sign(upstream, ONE, VENDOR)
        after = await pull(mirror.client)

    assert (before.status_code, forged.status_code, after.content) == (403, 403, ONE.raw)
    assert "is held back at " + ONE.digest in error_of(before)[1]
    assert "until upstream has a signature by vendor.pub" in error_of(before)[1]
    assert story(data) == [("held", ONE.digest, ""), ("observed", ONE.digest, "")]
    assert observed(data)[0].reason.startswith("it lacks a signature by vendor.pub")
    assert [type(each) for each in reported] == [TagHeld]


@pytest.mark.parametrize("form", ["signature tag", "referrer"])
async def test_a_moved_tag_is_followed_only_when_it_is_signed(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], form: str, whole_store: None
) -> None:
    """The signed old image is served while the new one is unsigned; the same rule follows the new one when it is signed."""
    unconditional = [{"on_move": "alert", "require": rule[0]["require"]}]

    def add(subject: Document) -> None:
        if form == "signature tag":
            sign(upstream, subject, VENDOR)
        else:
            attach(upstream, subject, bundled(subject, VENDOR))

    upstream.publish("team/app", "1.4.2", ONE)
    add(ONE)
    async with mirroring(data, upstream, rule=unconditional) as mirror:
        first = await pull(mirror.client)
        upstream.publish("team/app", "1.4.2", TWO)
        held = await pull(mirror.client)
        add(TWO)
        second = await pull(mirror.client)

    assert (first.content, held.content, second.content) == (ONE.raw, ONE.raw, TWO.raw)
    assert "which is held" in held.headers["warning"]
    assert [kind for kind, *_ in story(data)] == ["observed", "held", "observed"]


async def test_a_vendor_may_sign_without_a_key(
    data: Path, upstream: FakeUpstream, tmp_path: Path, whole_store: None
) -> None:
    """An identity under a trusted root of its own is required of an upstream as of a push."""
    authority = Authority()
    (tmp_path / "root.json").write_bytes(authority.trusted_root())
    who = {"identity": IDENTITY, "issuer": ISSUER, "trusted_root": str(tmp_path / "root.json")}
    upstream.publish("team/app", "1.4.2", ONE)
    async with mirroring(data, upstream, rule=[{"on_move": "follow", "require": [who]}]) as mirror:
        attach(upstream, ONE, keyless(ONE, Authority()))
        forged = await pull(mirror.client)
        attach(upstream, ONE, keyless(ONE, authority))
        after = await pull(mirror.client)

    assert (forged.status_code, after.content) == (403, ONE.raw)
    assert f"until upstream has a signature by {IDENTITY} of {ISSUER}" in error_of(forged)[1]


async def test_no_cooldown_serves_an_unsigned_image(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """The cooldown of the rule ends holds of signed images only."""
    upstream.publish("team/app", "1.4.2", ONE)
    sign(upstream, ONE, VENDOR)
    rule[0]["cooldown"] = "0s"
    async with mirroring(data, upstream, rule=rule) as mirror:
        await pull(mirror.client)
        upstream.publish("team/app", "1.4.2", TWO)
        unsigned = [await pull(mirror.client) for _ in range(2)]
        sign(upstream, TWO, VENDOR)
        signed_now = await pull(mirror.client)

    assert [each.content for each in unsigned] == [ONE.raw, ONE.raw]
    assert signed_now.content == TWO.raw
    assert [kind for kind, *_ in story(data)] == ["observed", "held", "accepted"]


async def test_a_signature_for_another_repository_is_none(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """A signature that the vendor made for another repository does not serve this one's tag."""
    upstream.publish("team/app", "1.4.2", ONE)
    sign(upstream, ONE, VENDOR, "team/other")
    async with mirroring(data, upstream, rule=rule) as mirror:
        answer = await pull(mirror.client)

    assert answer.status_code == 403
    assert "repository" in observed(data)[0].reason


async def test_signatures_are_pulled_through_the_mirror(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """The tags of signature tools need no signature, and images by digest are served: a client can verify by itself."""
    upstream.publish("team/app", "1.4.2", ONE)
    sign(upstream, ONE, MALLORY)
    async with mirroring(data, upstream, rule=rule) as mirror:
        tag = await pull(mirror.client, signature_tag(ONE))
        by_digest = await pull(mirror.client, ONE.digest)
        by_tag = await pull(mirror.client)

    assert (tag.status_code, by_digest.status_code, by_tag.status_code) == (200, 200, 403)


async def test_a_served_image_needs_no_signature_again(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """What is served stays served when the rule comes later, and its evidence is not asked for."""
    upstream.publish("team/app", "1.4.2", ONE)
    async with mirroring(data, upstream) as mirror:
        await pull(mirror.client)
    upstream.counted.clear()
    async with mirroring(data, upstream, rule=rule) as mirror:
        answer = await pull(mirror.client)

    assert answer.content == ONE.raw
    assert upstream.counted == {"HEAD /v2/team/app/manifests/1.4.2": 1}


async def test_evidence_that_cannot_be_read_serves_nothing_new(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """While the upstream fails on the referrers the old image is served with a warning, and a new tag is not served."""
    upstream.publish("team/app", "1.4.2", ONE)
    sign(upstream, ONE, VENDOR)
    async with mirroring(data, upstream, rule=rule) as mirror:
        await pull(mirror.client)
        for each in (TWO, ONE):
            upstream.answers[f"GET /v2/team/app/referrers/{each.digest}"] = status(500)
        upstream.publish("team/app", "1.4.2", TWO)
        upstream.publish("team/app", "2.0.0", ONE)
        old = await pull(mirror.client)
        new = await pull(mirror.client, "2.0.0")

    assert old.content == ONE.raw
    assert "failed on referrers" in old.headers["warning"]
    assert new.status_code == 503
    assert [kind for kind, *_ in story(data)] == ["observed"]


async def test_a_tag_is_served_when_its_image_is_signed_under_the_authority(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None, tmp_path: Path
) -> None:
    """A Notation signature at the upstream, by a certificate that is valid now."""
    begin = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    authority = root(begin=begin, end=begin + timedelta(days=365))
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    by_certificate = [{"repository": "**", "require": [{"ca": str(tmp_path / "ca.pem"), "subject": "O=acme"}]}]
    upstream.publish("team/app", "1.4.2", ONE)
    async with mirroring(data, upstream, rule=by_certificate) as mirror:
        before = await pull(mirror.client)
        made = notarized(ONE, authority.issue(begin=begin, end=begin + timedelta(days=365)), "cose")
        listed = [upstream.publish("team/app", None, made).descriptor()]
        upstream.referrers[ONE.digest] = json.dumps(
            {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        ).encode()
        after = await pull(mirror.client)

    assert (before.status_code, after.content) == (403, ONE.raw)
    assert "a Notation signature by a certificate of O=acme under ca.pem" in error_of(before)[1]


async def test_hundreds_of_other_referrers_hide_no_signature(
    data: Path, upstream: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """What an upstream lists before the signature is not taken for all there is: signatures are read first."""
    upstream.publish("team/app", "1.4.2", ONE)
    bundle = upstream.publish("team/app", None, bundled(ONE, VENDOR))
    sbom = {"mediaType": OCI_MANIFEST, "digest": TWO.digest, "size": 1, "artifactType": "application/spdx+json"}
    listed = [*[sbom] * MAX_MANIFESTS, bundle.descriptor(artifactType=BUNDLE)]
    upstream.referrers[ONE.digest] = json.dumps(
        {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
    ).encode()
    async with mirroring(data, upstream, rule=rule) as mirror:
        answer = await pull(mirror.client)

    assert answer.content == ONE.raw


# --- pushed through the push proxy ---


@pytest.fixture
async def pushable() -> AsyncIterator[FakeUpstream]:
    """An upstream that accepts pushes."""
    async with FakeUpstream(takes=True).listening() as listening:
        yield listening


@pytest.mark.parametrize("tag", ["latest", "1.4.2"])
async def test_a_push_through_the_proxy_is_no_way_around_the_rule(
    data: Path, pushable: FakeUpstream, rule: list[dict[str, Any]], tag: str, whole_store: None
) -> None:
    """What is pushed through this registry is served by it, so it needs the same evidence; a refusal changes nothing."""
    async with mirroring(data, pushable, rule=rule, push=True) as gate:
        unsigned = await push(gate.client, APP, tag, ONE)
        before = tags_upstream(pushable)
        sign(pushable, ONE, MALLORY)
        forged = await push(gate.client, APP, tag, ONE)
        served = await pull(gate.client, tag)

    assert (unsigned.status_code, forged.status_code, served.status_code) == (409, 409, 404)
    assert unsigned.json()["errors"][0]["detail"]["reason"] == "unsigned"
    assert "vendor.pub" in unsigned.json()["errors"][0]["detail"]["missing"][0]
    assert before == {}
    assert entries(data) == []


@pytest.mark.parametrize("named", ["team/app", APP])
async def test_a_signed_image_is_pushed_through_the_proxy(
    data: Path, pushable: FakeUpstream, rule: list[dict[str, Any]], named: str, whole_store: None
) -> None:
    """The signature may name the repository as the upstream does, or as a signer sees it who signs through this registry."""
    async with mirroring(data, pushable, rule=rule, push=True) as gate:
        await push(gate.client, APP, ONE.digest, ONE)
        await push(gate.client, APP, signature_tag(ONE), signed(ONE, VENDOR, named))
        answer = await push(gate.client, APP, "latest", ONE)
        served = await pull(gate.client, "latest")

    assert (answer.status_code, served.content) == (201, ONE.raw)
    assert tags_upstream(pushable)["latest"] == ONE.digest


async def test_a_push_of_what_is_served_already_needs_nothing(
    data: Path, pushable: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """A tag that was served before the rule keeps its digest, and a push of the same image is accepted as before."""
    async with mirroring(data, pushable, push=True) as gate:
        await push(gate.client, APP, "latest", ONE)
    async with mirroring(data, pushable, rule=rule, push=True) as gate:
        same = await push(gate.client, APP, "latest", ONE)
        other = await push(gate.client, APP, "latest", TWO)

    assert (same.status_code, other.status_code) == (201, 409)


@pytest.mark.slow
async def test_an_undecided_push_is_judged_again_before_it_is_served(
    data: Path, pushable: FakeUpstream, rule: list[dict[str, Any]], whole_store: None
) -> None:
    """The next process finds that upstream took a push; if the signature is gone by then, the tag is not published here."""
    tag = HEAD.removeprefix("HEAD ")
    async with mirroring(data, pushable, rule=rule, push=True) as gate:
        await push(gate.client, APP, ONE.digest, ONE)
        sign(pushable, ONE, VENDOR)

        async def gone(_: Asked, writer: asyncio.StreamWriter) -> None:
            pushable.answers[f"HEAD {tag}"] = status(503)
            writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n")

        pushable.after[f"PUT {tag}"] = gone
        undecided = await put(gate.client, APP, "1.4.2", ONE)
        pushable.answers.clear()
        pushable.after.clear()
        del pushable.manifests["team/app"][signature_tag(ONE)]
        other = await push(gate.client, APP, "1.4.2", TWO)
        served = await pull(gate.client)

    assert (undecided.status_code, other.status_code, served.status_code) == (503, 409, 403)
    assert tags_upstream(pushable) == {"1.4.2": ONE.digest}
    assert entries(data) == []
    assert reserved(data) == []
