"""References given to admin commands."""

from __future__ import annotations

import pytest

from boltseal.commands.tag_changes import required_reason
from boltseal.errors import Invalid
from boltseal.oci.digest_prefix import DigestPrefix
from boltseal.server.commands.data_folder import local_reference
from boltseal.server.commands.tag_accept import upstream_tag
from boltseal.server.commands.tag_restore import parse_target
from boltseal.server.configuration import load
from boltseal.server.registry.restores import ByIndex, ByTime
from boltseal.server.settings import Settings

DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def settings() -> Settings:
    """A registry that mirrors Docker Hub."""
    return load(None, {"upstream": [{"name": "docker.io"}]})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("app:1", "is an image on Docker Hub"),
        ("other:5000/app:1", "is an image of another registry"),
        ("localhost:5000/app", "has no tag"),
        (f"localhost:5000/app:1@{DIGEST}", "has a tag and a digest"),
    ],
)
def test_a_reference_names_one_image_of_this_registry(settings: Settings, text: str, message: str) -> None:
    """A reference to anything but one image of this registry is a usage error."""
    with pytest.raises(Invalid, match=message):
        local_reference(text, settings)


def test_a_digest_is_refused_where_a_tag_is_needed(settings: Settings) -> None:
    """A digest is refused where only a tag is possible."""
    with pytest.raises(Invalid, match=r"only a tag can be sealed; expected one, such as localhost:5000/app:1\.4\.2"):
        local_reference(f"localhost:5000/app@{DIGEST}", settings).tag_for("sealed", "1.4.2")


def test_a_reason_is_trimmed_and_not_empty() -> None:
    """A reason, which the ledger records, is trimmed and must not be empty."""
    assert required_reason(" shown to the auditor ") == "shown to the auditor"
    with pytest.raises(Invalid, match="--reason is empty"):
        required_reason("  ")


@pytest.mark.parametrize(
    "text",
    [
        "docker.io/library/node:16.13",
        "node:16.13",
        "localhost:5000/docker.io/node:16.13",
        "localhost:5000/docker.io/library/node:16.13",
    ],
)
def test_a_mirrored_tag_may_be_named_by_either_registry(settings: Settings, text: str) -> None:
    """A mirrored tag may be named by the mirror's or the upstream's reference."""
    assert str(upstream_tag(text, settings)) == "docker.io/library/node:16.13"


def test_a_tag_of_no_upstream_is_refused(settings: Settings) -> None:
    """A tag of no configured upstream is refused with a list of the upstreams."""
    with pytest.raises(Invalid, match=r"is of no registry that is mirrored here \(docker.io\)"):
        upstream_tag("quay.io/a/b:1", settings)


def test_a_tag_is_restored_to_an_entry_a_time_or_a_digest() -> None:
    """A restore accepts an entry, a time or a digest; anything else is a usage error."""
    assert parse_target("41") == ByIndex(41)
    assert parse_target("1970-01-01T00:00:01") == ByTime(1_000_000)
    assert str(parse_target(DIGEST)) == DIGEST
    assert parse_target("8c5a9f51ffcc") == DigestPrefix("", "8c5a9f51ffcc")
    assert parse_target("sha256:8c5a9f5") == DigestPrefix("sha256", "8c5a9f5")
    assert parse_target("123456789012") == DigestPrefix("", "123456789012")
    with pytest.raises(Invalid, match="--to is"):
        parse_target("yesterday")
