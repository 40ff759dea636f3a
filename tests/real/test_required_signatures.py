"""cosign signs an image that a rule gives a tag to only when it is signed, and other tools see the refusal."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.cli import program
from tests.real.registry import Registry
from tests.real.tools import Cosign, Skopeo, Tool, run

pytestmark = pytest.mark.real

BUILDER = "https://ci.example/builder"


@pytest.fixture
def strict(tmp_path: Path, cosign: Cosign) -> Iterator[Registry]:
    """A registry that gives tags of versions to signed images only, and `prod-*` to those with a provenance."""
    config = f"""
[[rule]]
tag = "[0-9]*"
require = [{{ key = "{cosign.folder}/cosign.pub" }}]

[[rule]]
tag = "prod-*"
require = [{{ predicate = "slsaprovenance", builder = "{BUILDER}", key = "{cosign.folder}/cosign.pub" }}]
"""
    with servers.boltseal(tmp_path / "data", config=config) as server:
        yield Registry(server)


@pytest.fixture
def candidate(strict: Registry, skopeo: Skopeo) -> str:
    """The digest reference of an unsigned image, pushed under a tag that needs nothing."""
    skopeo.push(skopeo.image(os.urandom(1000)), f"{strict.host}/shop/app:latest").checked()
    return f"{strict.host}/shop/app@{strict.digest('shop/app', 'latest')}"


def name(candidate: str, tag: str) -> tuple[bool, str]:
    """Give a tag to an image as skopeo does."""
    target = candidate.partition("@")[0] + f":{tag}"
    result = run(
        "skopeo",
        "copy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        f"docker://{candidate}",
        f"docker://{target}",
    )
    return result.ok, result.text


@pytest.mark.parametrize("more", [(), ("--registry-referrers-mode=oci-1-1",)], ids=["tag", "referrer"])
def test_an_image_that_cosign_signed_gets_its_tag(
    candidate: str, strict: Registry, cosign: Cosign, more: tuple[str, ...]
) -> None:
    """Refused before, accepted after `cosign sign`, whether it writes a signature tag or a referrer."""
    before, refusal = name(candidate, "1.4.2")
    cosign.sign(candidate, "builder", *more).checked()
    after, text = name(candidate, "1.4.2")

    assert not before
    assert "cosign sign --key cosign.key REGISTRY/shop/app@sha256:" in refusal
    assert after, text
    assert candidate.endswith(strict.digest("shop/app", "1.4.2"))


@pytest.mark.parametrize("more", [(), ("--new-bundle-format",)], ids=["tag", "bundle"])
def test_a_provenance_of_the_builder_gets_the_tag(
    candidate: str, cosign: Cosign, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """`cosign attest` in both formats; a provenance of another builder is not enough, and a signature neither."""
    cosign.sign(candidate, "builder").checked()
    attested = []
    for builder in (BUILDER + "/other", BUILDER):
        attested.append(name(candidate, "prod-1"))
        predicate = tmp_path / "provenance.json"
        predicate.write_text(json.dumps({"builder": {"id": builder}, "buildType": "https://ci.example/type"}))
        cosign.attest_file(candidate, predicate, "slsaprovenance", *more).checked()

    assert [ok for ok, _ in attested] == [False, False]
    assert "of builder " in attested[1][1]
    assert name(candidate, "prod-1")[0]


def test_an_ed25519_key_that_cosign_imports_verifies(
    candidate: str, strict: Registry, cosign: Cosign, tmp_path: Path
) -> None:
    """cosign signs with Ed25519 as this registry verifies it. Debian's cosign imports no RSA key: `tests/signatures` has those."""
    run("openssl", "genpkey", "-algorithm", "ED25519", "-out", str(tmp_path / "own.pem")).checked()
    imported = Cosign(tmp_path / "imported")
    imported.folder.mkdir()
    run(
        *("cosign", "import-key-pair", "--key", str(tmp_path / "own.pem"), "--output-key-prefix", "cosign"),
        env={"COSIGN_PASSWORD": ""},
        cwd=imported.folder,
    ).checked()
    config = f'[[rule]]\ntag = "[0-9]*"\nrequire = [{{ key = "{imported.folder}/cosign.pub" }}]\n'
    cosign.sign(candidate, "with another key").checked()
    with servers.boltseal(tmp_path / "other", config=config) as server:
        other = candidate.replace(strict.host, server.address)
        latest = other.partition("@")[0] + ":latest"
        run(
            "skopeo",
            "copy",
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            f"docker://{candidate}",
            f"docker://{latest}",
        ).checked()
        before, _ = name(other, "1.0")
        imported.sign(other, "with this key").checked()
        after, text = name(other, "1.0")

    assert not before
    assert after, text


def test_publish_signs_with_cosign_and_gives_the_tag(
    candidate: str, strict: Registry, cosign: Cosign, tmp_path: Path
) -> None:
    """One command has cosign sign an image of a layout, at this registry and at one that requires nothing."""
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{candidate}", f"oci:{tmp_path}/image:app").checked()
    sign = (
        f"cosign sign --yes --key {cosign.folder}/cosign.key --tlog-upload=false --allow-http-registry "
        "--allow-insecure-registry --annotations by=publish {image}"
    )
    with servers.docker_registry(tmp_path / "peer") as peer:
        published = [
            program.run(
                *("publish", f"oci:{tmp_path}/image:app", f"{address}/shop/app:1.4.2", "--sign", sign),
                *("--signed-by", f"{cosign.folder}/cosign.pub"),
                environment={"COSIGN_PASSWORD": ""},
            )
            for address in (strict.host, peer.address)
        ]
        signers = [cosign.verify(f"{address}/shop/app:1.4.2") for address in (strict.host, peer.address)]

    assert [each.code for each in published] == [0, 0], [each.err for each in published]
    assert signers == [{"publish"}, {"publish"}]
    assert candidate.endswith(strict.digest("shop/app", "1.4.2"))


def test_a_mirror_serves_an_upstreams_tag_when_cosign_has_signed_it(
    registry: Registry, repository: str, skopeo: Skopeo, cosign: Cosign, tmp_path: Path
) -> None:
    """skopeo gets 403 from the mirror, and after `cosign sign` at the upstream the image."""
    skopeo.push(skopeo.image(os.urandom(1000)), f"{registry.host}/{repository}:1.0.0").checked()
    digest = registry.digest(repository, "1.0.0")
    config = f"""
[[upstream]]
name = "up.example"
url = "http://{registry.host}"
fresh = "0s"

[[upstream.rule]]
require = [{{ key = "{cosign.folder}/cosign.pub" }}]
"""
    with servers.boltseal(tmp_path / "mirror", config=config) as mirror:
        image = f"docker://{mirror.address}/up.example/{repository}:1.0.0"
        inspect = ("skopeo", "inspect", "--tls-verify=false", "--format", "{{.Digest}}", image)
        before = run(*inspect)
        cosign.sign(f"{registry.host}/{repository}@{digest}", "vendor").checked()
        after = run(*inspect)

    assert not before.ok
    assert "is held back" in before.text
    assert after.text.strip() == digest


def test_each_client_shows_the_refusal(tool: Tool, strict: Registry) -> None:
    """Every client fails for an unsigned image and prints why; those on containerd only that there is a conflict."""
    result = tool.push(tool.image(os.urandom(1000)), f"{strict.host}/shop/app:1.4.2")

    assert not result.ok
    why = "409 Conflict" if tool.name in ("docker-containerd", "ctr") else "is given only to signed images"
    assert why in result.text
    assert not strict.has("shop/app", "1.4.2")
