"""Generated files that pin images without editing the project."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from boltseal.oci.digest import Digest
from boltseal.project.generated_files import (
    SeveralFolders,
    compose_override,
    helm_post_renderer,
    kustomize_component,
    source_policy,
)
from boltseal.project.image_references import ImageReference
from tests.programs import program
from tests.project.projects import digest_of, found_in, trap, written


def digests(root: Path) -> Mapping[ImageReference, Digest]:
    """Return the test digest of every resolved reference."""
    return {
        image_ref: digest_of(image_ref) for image_ref in found_in(root).image_refs if image_ref.resolved is not None
    }


def hex_of(reference: str) -> str:
    """Return `@sha256:...` with the test digest of a reference."""
    return f"@{Digest.of(reference.encode())}"


def test_an_override_pins_what_could_not_be_edited(tmp_path: Path) -> None:
    """An override has the digests of variables shared by two services, and of assembled values."""
    emitted = compose_override(digests(trap("compose_dotenv", tmp_path)))

    assert emitted.left_out == ()
    assert yaml.safe_load(emitted.text)["services"] == {
        "one": {"image": "redis:7.2" + hex_of("docker.io/library/redis:7.2")},
        "put_together": {"image": "httpd:7.2-alpine" + hex_of("docker.io/library/httpd:7.2-alpine")},
        "two": {"image": "registry.example.com/redis:7.2" + hex_of("registry.example.com/redis:7.2")},
        "web": {"image": "nginx:1.25" + hex_of("docker.io/library/nginx:1.25")},
        "whole": {"image": "postgres:16" + hex_of("docker.io/library/postgres:16")},
    }


def test_omissions_of_an_override_are_listed(tmp_path: Path) -> None:
    """The list of omissions has images in other keys than `image`."""
    other = compose_override(digests(trap("compose_other_places", tmp_path)))

    assert yaml.safe_load(other.text) == {"services": {}}
    assert len(other.left_out) == 6


def test_an_override_removes_the_build_of_a_locked_image(tmp_path: Path) -> None:
    """A service that is built here gets its locked image and no build, since Compose builds no name with a digest."""
    root = written(tmp_path, {"compose.yml": "services: {own: {build: ., image: 'shop/own:1'}, web: {image: nginx}}\n"})
    emitted = compose_override(digests(root))

    assert emitted.left_out == ()
    own, web = emitted.text.split("services:\n")[1].split('  "web"')
    assert ("image: " in own, "image: " in web) == (True, True)
    assert ("    build: !reset null\n" in own, "build" in web) == (True, False)


def test_two_projects_have_two_overrides(tmp_path: Path) -> None:
    """Two folders have an override each, since their services may have equal names."""
    services = "services: {web: {image: nginx:1.25}}\n"
    root = written(tmp_path, {"a/compose.yml": services, "b/compose.yml": services})

    with pytest.raises(
        SeveralFolders, match=r"the Compose files are in several folders \(a, b\); name the files of one project"
    ):
        compose_override(digests(root))


def test_a_service_with_two_images_is_left_out(tmp_path: Path) -> None:
    """A service with two images, in the base file and in another, is left out of the override."""
    services = "services: {web: {image: 'nginx:%s'}}\n"
    root = written(tmp_path, {"compose.yml": services % 1, "compose.prod.yml": services % 2})
    emitted = compose_override(digests(root))

    assert yaml.safe_load(emitted.text) == {"services": {}}
    assert [why for _, why in emitted.left_out] == ["its files name several images for this service"] * 2


def test_a_component_has_names_with_tag_and_digest(tmp_path: Path) -> None:
    """A kustomize component has names with tag and digest; a name with two tags is left out."""
    pod = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n"
    images = ("nginx:1.25", "registry.example.com:5000/shop/app:1.4.2", "redis", "httpd:1", "httpd:2")
    root = written(tmp_path, {"pod.yaml": pod + "".join(f"    - image: {image}\n" for image in images)})
    emitted = kustomize_component(digests(root))
    read = yaml.safe_load(emitted.text)

    assert (read["kind"], read["apiVersion"]) == ("Component", "kustomize.config.k8s.io/v1alpha1")
    assert read["images"] == [
        {"name": "nginx", "newTag": "1.25" + hex_of("docker.io/library/nginx:1.25")},
        {"name": "redis", "newTag": "latest" + hex_of("docker.io/library/redis")},
        {
            "name": "registry.example.com:5000/shop/app",
            "newTag": "1.4.2" + hex_of("registry.example.com:5000/shop/app:1.4.2"),
        },
    ]
    assert [image_ref.written for image_ref, _ in emitted.left_out] == ["httpd:1", "httpd:2"]


def test_a_policy_covers_what_can_not_be_edited(tmp_path: Path) -> None:
    """A source policy covers ARGs that a stage uses, the frontend, and inline Dockerfiles."""
    args = source_policy(digests(trap("dockerfile_args", tmp_path)))
    directives = source_policy(digests(trap("dockerfile_directives", tmp_path)))
    inline = source_policy(digests(trap("compose_other_places", tmp_path)))

    rules = {rule["selector"]["identifier"]: rule["updates"]["identifier"] for rule in json.loads(args.text)["rules"]}
    alpine = "docker-image://docker.io/library/alpine:3.20"
    assert rules[alpine] == alpine + hex_of("docker.io/library/alpine:3.20")
    assert len(rules) == 7
    assert '"docker-image://docker.io/docker/dockerfile:1.9"' in directives.text
    assert '"docker-image://docker.io/library/golang:1.23"' in inline.text


def test_one_image_with_two_digests_is_left_out_of_a_policy(tmp_path: Path) -> None:
    """An image with two digests is left out of a source policy, which selects by name only."""
    root = written(tmp_path, {"a.Dockerfile": "FROM nginx:1.25\n", "b.Dockerfile": "FROM nginx:1.25\n"})
    first, second = found_in(root).image_refs
    emitted = source_policy({first: Digest.of(b"1"), second: Digest.of(b"2")})

    assert json.loads(emitted.text) == {"rules": []}
    assert len(emitted.left_out) == 2


def test_a_file_without_pins_is_valid(tmp_path: Path) -> None:
    """A generated file without pins is empty and valid."""
    assert yaml.safe_load(compose_override({}).text) == {"services": {}}
    assert yaml.safe_load(kustomize_component({}).text)["images"] == []
    assert json.loads(source_policy({}).text) == {"rules": []}


@pytest.mark.real
def test_a_post_renderer_gives_a_charts_images_their_digests(tmp_path: Path) -> None:
    """The script for `helm --post-renderer` sets the digest of each image that a chart rendered, in any spelling."""
    values = "web: {image: {registry: docker.io, repository: library/nginx, tag: '1.25'}}\nside: {image: {repository: shop/side, tag: v1}}\n"
    root = written(tmp_path / "chart", {"values.yaml": values})
    locked = digests(root)
    script = written(tmp_path, {"digests.sh": helm_post_renderer(locked).text}) / "digests.sh"
    rendered = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: a, image: 'nginx:1.25'}, {name: b, image: 'shop/side:v1'}, {name: c, image: 'other:1'}]}\n"
    environment = {"PATH": f"{Path(program('kubectl')).parent}:/usr/bin:/bin"}
    result = subprocess.run(
        ["sh", script], input=rendered.encode(), env=environment, check=True, stdout=subprocess.PIPE
    ).stdout

    of_name = {image_ref.written: digest for image_ref, digest in locked.items()}
    assert {each["image"] for each in yaml.safe_load(result)["spec"]["containers"]} == {
        f"nginx:1.25@{of_name['docker.io/library/nginx:1.25']}",
        f"shop/side:v1@{of_name['shop/side:v1']}",
        "other:1",
    }


def test_a_post_renderer_leaves_out_a_name_with_several_tags(tmp_path: Path) -> None:
    """kustomize selects by name, so an image with two tags in the values is left out of the script."""
    values = (
        "a: {image: {repository: shop/a, tag: v1}}\nb: {image: {registry: docker.io, repository: shop/a, tag: v2}}\n"
    )
    emitted = helm_post_renderer(digests(written(tmp_path, {"values.yaml": values})))

    assert [each.image_ref.written for each in emitted.left_out] == ["shop/a:v1", "docker.io/shop/a:v2"]
    assert "images: []" in emitted.text
