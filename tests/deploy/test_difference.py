"""Changes between two releases."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from boltseal.deploy.compose_model import MOUNTED_LABEL
from boltseal.deploy.release_diff import changes
from boltseal.deploy.releases import Release, ReleaseContents
from boltseal.oci.annotations import BASE_DIGEST, BASE_NAME
from tests.deploy.samples import DIGEST, release

OTHER = f"sha256:{'b' * 64}"


def with_app(number: int, **fields: Any) -> Release:
    """Return a release with this one service, app."""
    made = release(number)
    return made.with_services([replace(made.services[0], **fields)])


def contents(app: dict[str, Any], secret: str = "", **files: str) -> ReleaseContents:
    """Return recorded contents. `secret`: the name of the recorded copy of the service's secret."""
    text: dict[str, Any] = {"name": "shop", "services": {"app": {"image": "x"} | app, "db": {"image": "y"}}}
    if secret:
        text["services"]["app"]["secrets"] = [{"source": "s"}]
        text["secrets"] = {"s": {"file": f"/content/{secret}"}}
    return ReleaseContents(
        json.dumps(text).encode(), b"{}", {name: content.encode() for name, content in files.items()}
    )


def changed(
    before: Release, after: Release, was: ReleaseContents | None = None, is_: ReleaseContents | None = None
) -> list[Any]:
    """Return all changes as service, what, before and after."""
    return [(each.service, each.what, each.before, each.after) for each in changes(before, after, was, is_)]


def test_equal_releases_have_no_changes() -> None:
    """Equal releases have no changes, with and without their texts."""
    text = contents({"command": ["x"]}, compose="services")

    assert changed(release(1), release(2)) == changed(release(1), release(2), text, text) == []


def test_images_labels_and_base_images_are_compared() -> None:
    """A changed image, label and base image each have a name of their own in the result."""
    old = with_app(1, labels={BASE_NAME: "debian:12", BASE_DIGEST: DIGEST, "a": "1", "gone": "x"})
    new = with_app(2, image="app:2", digest=OTHER, containers=3, labels={BASE_NAME: "debian:13", BASE_DIGEST: OTHER})

    assert changed(old, new) == [
        ("app", "image", "localhost:5000/shop/app:1.0.0", "app:2"),
        ("app", "digest", DIGEST, OTHER),
        ("app", "containers", "1", "3"),
        ("app", "label a", "1", ""),
        ("app", "label gone", "x", ""),
        ("app", "base digest", DIGEST, OTHER),
        ("app", "base", "debian:12", "debian:13"),
    ]


def test_a_local_build_is_compared_by_its_id() -> None:
    """A local build without a registry digest is compared by its image ID."""
    assert changed(with_app(1, digest=""), with_app(2, digest="", image_id=OTHER)) == [("app", "digest", DIGEST, OTHER)]


def test_values_of_the_environment_are_never_shown() -> None:
    """Only the names of added, removed and changed variables are shown, never values."""
    old = with_app(1, environment={"SAME": "m1", "TOKEN": "m2", "GONE": "m3"})
    new = with_app(2, environment={"SAME": "m1", "TOKEN": "m9", "NEW": "m4"})

    assert changed(old, new) == [
        ("app", "environment GONE", "set", ""),
        ("app", "environment NEW", "", "set"),
        ("app", "environment TOKEN", "set", "changed"),
    ]
    was, is_ = (contents({"environment": {"TOKEN": value}}) for value in ("sesame", "swordfish"))
    assert changed(release(1), release(2), was, is_) == []


def test_added_and_removed_services_are_listed() -> None:
    """Added and removed services are listed with the revision."""
    both, one = replace(release(1), revision="v1"), replace(release(2), revision="v2")
    one = replace(one, services=one.services[:1])

    assert changed(both, one) == [("", "revision", "v1", "v2"), ("db", "service", "present", "")]
    assert changed(one, both) == [("", "revision", "v2", "v1"), ("db", "service", "", "present")]


def test_settings_secrets_and_files_are_compared() -> None:
    """Changed settings, secrets and files are listed; of a secret only that it changed."""
    was = contents({"command": ["a"], "labels": {"x": "y"}}, "1", compose="a", gone="b")
    is_ = contents({"restart": "always", "labels": {"x": "z", MOUNTED_LABEL: "2"}}, "2", compose="c", new="d")

    assert changed(release(1), release(2), was, is_) == [
        ("app", "secrets and configs", "present", "changed"),
        ("app", "command", '["a"]', ""),
        ("app", "labels", '{"x": "y"}', '{"x": "z"}'),
        ("app", "restart", "", '"always"'),
        ("", "file compose", "present", "changed"),
        ("", "file gone", "present", ""),
        ("", "file new", "", "present"),
    ]
    assert changed(release(1), release(2), was, None) == []


def test_an_added_secret_is_listed() -> None:
    """A secret that did not exist before is listed as added."""
    was, is_ = contents({}), contents({}, "2")

    assert changed(release(1), release(2), was, is_) == [
        ("app", "secrets and configs", "", "present"),
        ("app", "secrets", "", '[{"source": "s"}]'),
    ]
