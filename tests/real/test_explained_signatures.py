"""`update --explain` and `compare` count the signatures that cosign attached."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli.program import call
from tests.real.registry import Registry
from tests.real.tools import Cosign, Skopeo

pytestmark = pytest.mark.real

MODES: dict[str, tuple[str, ...]] = {"tag": (), "referrer": ("--registry-referrers-mode=oci-1-1",)}


@pytest.mark.parametrize("mode", MODES)
def test_an_explanation_counts_the_signatures_of_cosign(
    cosign: Cosign, skopeo: Skopeo, registry: Registry, repository: str, tmp_path: Path, mode: str
) -> None:
    """A signature that cosign attached to the new image, by its tag or as a referrer, is counted; an attestation and the
    unsigned former image are not."""
    name = f"{registry.host}/{repository}"
    for tag in ("1.4.2", "1.4.2.1"):
        skopeo.push(skopeo.image(os.urandom(1000)), f"{name}:{tag}").checked()
    compose = tmp_path / "compose.yaml"
    compose.write_text(f"services:\n  web:\n    image: {name}:1.4.2\n")
    assert call("lock", "--project", tmp_path).code == 0
    compose.write_text(compose.read_text().replace("1.4.2", "1.4.2.1"))
    signed = f"{name}@{registry.digest(repository, '1.4.2.1')}"
    cosign.attest(signed, {"tests": "passed"}).checked()
    cosign.sign(signed, "builder", *MODES[mode]).checked()
    (tmp_path / "copy").mkdir()
    for file in ("compose.yaml", "boltseal.lock"):
        (tmp_path / "copy" / file).write_bytes((tmp_path / file).read_bytes())
    text = call("lock", "--explain", "text", "--project", tmp_path / "copy")
    [found] = [
        each["explanation"]
        for each in call("lock", "--explain", "json", "--project", tmp_path).json["results"]
        if "explanation" in each
    ]

    assert (len(found["signatures"]["old"]), len(found["signatures"]["new"])) == (0, 1), found["signatures"]
    assert "signatures  0 -> 1, not verified here" in text.out
