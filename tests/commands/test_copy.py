"""Copies of images: the names at the target, and outcomes."""

from __future__ import annotations

import pytest

from boltseal.commands.copy import CopyRequest, CopyResult, CopyRow, image_names
from boltseal.commands.outcome import Outcome
from boltseal.commands.registry_access import ReferenceUnsuitable
from boltseal.errors import BoltsealError, SealedPut, Unavailable
from boltseal.oci.digest import Digest
from boltseal.transfer.copy import CopiedImage, CopyCounts
from boltseal.transfer.locations import Location

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("src", "dst", "names"),
    [
        ("r.test/a:1", "s.test/b:2", ("1", "2")),
        ("r.test/a:1", "s.test/b", ("1", "1")),
        ("r.test/a", "s.test/b", (None, "latest")),
        (f"r.test/a@{DIGEST}", "s.test/b", (DIGEST, None)),
        (f"r.test/a:1@{DIGEST}", "s.test/b", (DIGEST, "1")),
        (f"r.test/a@{DIGEST}", "s.test/b:2", (DIGEST, "2")),
        ("oci:dir:1", "s.test/b", ("1", "1")),
        ("r.test/a:1", "oci:dir", ("1", "1")),
        ("docker-archive:x.tar", "s.test/b:2", (None, "2")),
        ("docker-archive:x.tar:a:1", "s.test/b:2", ("docker.io/library/a:1", "2")),
        ("docker-daemon:a:1", "s.test/b", (None, "1")),
        ("r.test/a:1", "docker-daemon:b", ("1", "docker.io/library/b:1")),
        ("r.test/a:1", "docker-archive:x.tar", ("1", "r.test/a:1")),
    ],
)
def test_the_target_tag_has_a_default(src: str, dst: str, names: tuple[str | None, str | None]) -> None:
    """Without a tag in the target reference, the source's tag is used, then `latest`."""
    assert image_names(Location.parse(src), Location.parse(dst)) == names


@pytest.mark.parametrize(
    ("errors", "outcome"),
    [
        ((None,), Outcome.HOLDS),
        ((None, Unavailable("busy")), Outcome.UNKNOWN),
        ((SealedPut("sealed"), Unavailable("busy"), None), Outcome.DIFFERS),
    ],
)
def test_the_worst_image_decides_the_outcome(errors: tuple[BoltsealError | None, ...], outcome: Outcome) -> None:
    """Of several images the worst outcome counts: refused, then not copied, then copied."""
    copied = CopiedImage("r.test/a", Digest.parse(DIGEST), changed=True)
    rows = tuple(CopyRow("r.test/a", None if error else copied, error) for error in errors)

    assert CopyResult(rows, CopyCounts()).outcome is outcome


def test_a_target_with_a_digest_is_refused() -> None:
    """A target reference with a digest is refused, since a copy's digest follows from its bytes."""
    with pytest.raises(ReferenceUnsuitable, match=r"expected a tag, s\.test/b:TAG"):
        CopyRequest(Location.parse("r.test/a:1"), Location.parse(f"s.test/b@{DIGEST}"))
