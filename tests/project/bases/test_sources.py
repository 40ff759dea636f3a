"""Claims about a base: labels, annotations, provenance, built entries, a Dockerfile."""

from __future__ import annotations

import json
from typing import Any

import pytest

from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import parse_manifest
from boltseal.oci.reference import Reference
from boltseal.project.bases.base_claims import (
    ClaimKind,
    ClaimSource,
    claim_from_annotations,
    claim_from_entries,
    claim_from_labels,
    claim_from_reference,
    claims_from_provenance,
)
from boltseal.project.bases.image_facts import NotAnImage, NotRead, read_facts
from boltseal.project.bases.rebuild_order import bases_first
from tests import images
from tests.project.bases.samples import digest, facts

NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
NODE = Reference.parse("node:16.13")
WAS = digest("node")


def test_labels_and_annotations_name_a_base() -> None:
    """As in image-spec, labels and annotations have a reference with a tag, and the digest at build time."""
    labels = {NAME: "docker.io/library/node:16.13", DIGEST: str(WAS)}
    by_label, by_annotation = claim_from_labels(facts("a", labels=labels)), claim_from_annotations(labels)

    assert by_label is not None
    assert (by_label.base, by_label.digest, by_label.source, by_label.sure) == (NODE, WAS, ClaimSource.LABEL, False)
    assert by_annotation is not None
    assert by_annotation.sure


def test_a_name_without_a_digest_is_an_incomplete_claim() -> None:
    """Without its own annotation the digest in the reference is used; without a tag, `latest`."""
    named = claim_from_annotations({NAME: f"node@{WAS}"})

    assert named is not None
    assert (str(named.base), named.digest) == ("docker.io/library/node:latest", WAS)


@pytest.mark.parametrize("labels", [{}, {NAME: ""}, {NAME: "Not a name"}, {NAME: "node", DIGEST: "sha256:short"}])
def test_free_text_claims_nothing(labels: dict[str, str]) -> None:
    """A label with free text is no claim."""
    assert claim_from_annotations(labels) is None


def test_scratch_is_a_claim_of_no_base() -> None:
    """`scratch` claims that there is no base, as for a single static program."""
    claim = claim_from_annotations({NAME: "scratch"})

    assert claim is not None
    assert claim.base is None


def entry(extra: dict[str, str], kind: EntryKind = EntryKind.BUILT, of: Digest = WAS) -> Entry:
    return Entry(kind=kind, time_us=1, registry="r", repository="shop/app", digest=str(of), salt="0" * 32, extra=extra)


def test_the_newest_built_entry_of_the_image_counts() -> None:
    """Of the ledger's built entries, the newest one of this image counts."""
    labels = {"base.name": "node:16.13", "base.digest": str(digest("first"))}
    entries = [
        entry(labels),
        entry({**labels, "base.digest": str(digest("second"))}),
        entry(labels, of=digest("another")),
        entry(labels, EntryKind.RELEASED),
    ]
    claim = claim_from_entries(entries, WAS)

    assert claim is not None
    assert (claim.base, claim.digest, claim.source) == (NODE, digest("second"), ClaimSource.BUILT)
    assert claim_from_entries(entries, digest("third")) is None


def statement(predicate_type: str, predicate: Any) -> bytes:
    return json.dumps(
        {"_type": "https://in-toto.io/Statement/v0.1", "predicateType": predicate_type, "predicate": predicate}
    ).encode()


def material(uri: str, of: Digest = WAS) -> dict[str, Any]:
    return {"uri": uri, "digest": {"sha256": of.hex}}


def test_both_forms_of_provenance_name_the_build_inputs() -> None:
    """SLSA v0.2 materials and v1 resolvedDependencies are read, without frontends and git sources."""
    listed = [
        material("pkg:docker/docker/dockerfile@1.6"),
        material("pkg:docker/node@16.13?platform=linux%2Famd64"),
        material("pkg:docker/localhost%3A5000/team/base@1?platform=linux%2Famd64", digest("base")),
        {"uri": "https://github.com/shop/app.git", "digest": {"sha1": "abc"}},
        {"uri": 7},
        "text",
        {"uri": "pkg:docker/../x@1", "digest": {"sha256": WAS.hex}},
    ]
    v02 = claims_from_provenance(statement("https://slsa.dev/provenance/v0.2", {"materials": listed}))
    v1 = claims_from_provenance(
        statement("https://slsa.dev/provenance/v1", {"buildDefinition": {"resolvedDependencies": listed}})
    )

    assert v02 == v1
    assert [(str(claim.base), claim.digest) for claim in v1] == [
        (str(NODE), WAS),
        ("localhost:5000/team/base:1", digest("base")),
    ]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"\xff",
        b"[" * 100_000,
        statement("https://spdx.dev/Document", {"materials": []}),
        statement("https://slsa.dev/provenance/v1", {}),
        b'{"predicateType":"https://slsa.dev/provenance/v1","predicate":{"buildDefinition":{"resolvedDependencies":7}}}',
    ],
)
def test_another_statement_has_no_claims(raw: bytes) -> None:
    """An in-toto statement of another type is ignored."""
    assert claims_from_provenance(raw) == ()


def test_a_dockerfiles_claim_is_inferred() -> None:
    """A Dockerfile's base is marked as inferred, and has a digest only if it is pinned."""
    claim = claim_from_reference(Reference.parse(f"node:16.13@{WAS}"), ClaimSource.DOCKERFILE)

    assert (claim.kind, claim.base, claim.digest) == (ClaimKind.INFERRED, NODE, WAS)
    assert claim_from_reference(None, ClaimSource.DOCKERFILE).base is None
    assert claim_from_reference(Reference.parse("node"), ClaimSource.GIVEN).base == Reference.parse("node:latest")


def read(config: bytes, manifest: images.Document | None = None) -> Any:
    document = manifest or images.image("one")
    raw = document.raw
    return read_facts(parse_manifest(raw, document.media_type), Digest.parse(document.digest), config)


def test_facts_are_read_of_a_config() -> None:
    """A config gives uncompressed layers and effective settings."""
    config = {
        "os": "linux",
        "architecture": "arm64",
        "variant": "v8",
        "created": "2026-11-26T00:00:00Z",
        "rootfs": {"diff_ids": [str(WAS)]},
        "config": {
            "Env": ["A=1=2", "B"],
            "Cmd": "sh",
            "ExposedPorts": {"80/tcp": {}},
            "Labels": {"l": "v", NAME: "node"},
            "User": "app",
            "Healthcheck": {"Test": ["CMD", "true"]},
            "StopSignal": "SIGQUIT",
            "Shell": ["/bin/bash", "-c"],
            "OnBuild": ["RUN x"],
        },
        "history": [{"created_by": "ADD", "empty_layer": True}],
    }
    found = read(json.dumps(config).encode())

    assert str(found.platform) == "linux/arm64/v8"
    assert found.diff_ids == (str(WAS),)
    assert (found.settings.env, found.settings.command, found.settings.ports) == (
        {"A": "1=2", "B": ""},
        ("sh",),
        ("80/tcp",),
    )
    assert (found.settings.health, found.settings.stop_signal) == ('{"Test": ["CMD", "true"]}', "SIGQUIT")
    assert (found.settings.shell, found.settings.on_build) == (("/bin/bash", "-c"), ("RUN x",))
    assert found.history[0].empty
    assert found.labels == {NAME: "node"}
    assert read(b'{"config": {"Healthcheck": null}}').settings.health == ""


BOMB = b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    "config", [b"", b"[]", b"\xff", b'{"rootfs":{"diff_ids":["x"]}}', b'{"config":{"Env":7}}', BOMB]
)
def test_an_unreadable_config_is_not_another_artifact(config: bytes) -> None:
    """An unreadable config is a one-line error, and the image is not taken for another artifact."""
    with pytest.raises(NotRead, match="can't be read"):
        read(config)


def test_a_large_config_takes_little_memory() -> None:
    """Long texts of a config are kept as hashes, and too many are refused."""

    def long(end: str) -> Any:
        step = {"created_by": "x" * 1_000_000 + end}
        return read(
            json.dumps({"config": {"Env": ["A=" + "y" * 1_000_000], "Cmd": ["z"] * 5000}, "history": [step]}).encode()
        )

    one, other = long("1"), long("2")

    assert one.history == long("1").history
    assert one.history != other.history
    assert one.settings == other.settings
    assert len(str(one)) < 400_000
    configs: list[dict[str, Any]] = [
        {"rootfs": {"diff_ids": [str(WAS)] * 1001}},
        {"history": [{}] * 2001},
        {"config": {"Env": ["a"] * 1001}},
    ]
    for config in configs:
        with pytest.raises(NotRead, match="at most"):
            read(json.dumps(config).encode())


def test_an_artifact_is_not_an_image() -> None:
    """A signature or an SBOM is an artifact without a base."""
    sbom = images.artifact("an SBOM")
    with pytest.raises(NotAnImage, match="not a container image"):
        read(b"{}", sbom)


def order(*pairs: tuple[str, str]) -> str:
    return "".join(name for name, _ in bases_first(pairs, lambda pair: pair[0], lambda pair: pair[1]))


def test_bases_come_first() -> None:
    """Images are sorted so that bases come first, in any input order."""
    assert order(("app", "base "), ("base ", "node "), ("node ", "")) == "node base app"
    assert order(("x", "n"), ("y", "n")) == "xy"
    assert order(("a", "b"), ("b", "a"), ("c", "a")) in ("bac", "abc")
    assert order(("a", "a")) == "a"
