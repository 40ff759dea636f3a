"""What a Dockerfile builds on, with the arguments of the build."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.build.dockerfile_bases import Dockerfile, DockerfileInvalid, read


def dockerfile(tmp_path: Path, text: str, target: str | None = None, **args: str) -> Dockerfile:
    (tmp_path / "Dockerfile").write_text(text)
    return read(tmp_path, Path("Dockerfile"), args, target)


def base(tmp_path: Path, text: str, target: str | None = None, **args: str) -> str | None:
    found = dockerfile(tmp_path, text, target, **args).base
    return None if found is None else str(found.resolved)


def test_the_base_is_that_of_the_last_stage(tmp_path: Path) -> None:
    """The base is found through every stage between it and the last one."""
    text = "FROM golang:1.25 AS build\nFROM node:16.13 AS run\nFROM Run AS more\nCOPY --from=build /a /a\nFROM more\n"

    assert base(tmp_path, text) == "docker.io/library/node:16.13"
    assert [image_ref.written for image_ref in dockerfile(tmp_path, text).image_refs] == ["golang:1.25", "node:16.13"]


def test_another_stage_has_another_base(tmp_path: Path) -> None:
    """The base of a stage is found by the stage's name, in any case, or its number."""
    text = "FROM golang:1.25 AS build\nFROM node:16.13\n"

    assert base(tmp_path, text, "BUILD") == base(tmp_path, text, "0") == "docker.io/library/golang:1.25"


def test_a_stage_of_the_same_name_hides_the_earlier_one(tmp_path: Path) -> None:
    """A stage named like its own base is based on the earlier stage of that name, or on the image."""
    text = "FROM node:16.13 AS node\nFROM node AS node\nFROM node\n"

    assert base(tmp_path, text) == "docker.io/library/node:16.13"


def test_an_image_from_scratch_has_no_base(tmp_path: Path) -> None:
    """An image from `scratch` has no base."""
    assert base(tmp_path, "FROM scratch\nCOPY . /\n") is None


def test_a_build_argument_before_the_first_from_is_inserted(tmp_path: Path) -> None:
    """Build arguments declared before the first FROM, with or without a default, are inserted; those of a stage are
    not."""
    text = "ARG V=16 W\nARG V2\nFROM node:${V}-${W:-slim} AS a\nARG V=9\nFROM node:${V2:-1}\n"

    assert base(tmp_path, text, "a", V="20", W="alpine") == "docker.io/library/node:20-alpine"
    assert base(tmp_path, text, V2="3") == "docker.io/library/node:3"
    assert base(tmp_path, text, "a") == "docker.io/library/node:16-slim"


def test_a_build_argument_that_can_not_be_part_of_a_name_is_refused(tmp_path: Path) -> None:
    """A build argument that can't be part of an image name is refused, because the image would be ambiguous."""
    with pytest.raises(DockerfileInvalid, match='V is given as "a b"'):
        base(tmp_path, "ARG V\nFROM node:${V}\n", V="a b")

    assert base(tmp_path, "FROM node:1\nARG V\n", V="a b") == "docker.io/library/node:1"


@pytest.mark.parametrize(
    ("text", "target", "message"),
    [
        ("", None, "has no FROM: it builds nothing"),
        ("FROM node:1 AS a\n", "b", 'has no stage "b"; it has a'),
        ("FROM node:1\n", "1", 'has no stage "1"; it has none'),
        ("FROM node:1\0\n", None, "Dockerfile:1: contains a NUL byte"),
        ("FROM\n", None, "Dockerfile"),
    ],
)
def test_an_unsupported_dockerfile_is_refused(tmp_path: Path, text: str, target: str | None, message: str) -> None:
    """An unsupported Dockerfile is refused with the reason."""
    with pytest.raises(DockerfileInvalid) as refused:
        base(tmp_path, text, target)

    assert message in refused.value.message


def test_a_file_outside_is_not_read(tmp_path: Path) -> None:
    """A link to a Dockerfile outside of the project is not followed."""
    (tmp_path / "Dockerfile").symlink_to("/etc/passwd")
    with pytest.raises(DockerfileInvalid, match="is outside of the project"):
        read(tmp_path, Path("Dockerfile"), {}, None)


def test_a_stage_that_a_variable_names_is_resolved(tmp_path: Path) -> None:
    """A variable in FROM is replaced by its default or by the build argument."""
    text = "ARG KIND=prod\nFROM alpine:3.20 AS prod\nFROM debian:12 AS dev\nFROM ${KIND}\n"

    assert base(tmp_path, text) == "docker.io/library/alpine:3.20"
    assert base(tmp_path, text, KIND="dev") == "docker.io/library/debian:12"


def test_a_stage_that_depends_on_the_platform_needs_a_platform(tmp_path: Path) -> None:
    """If the base depends on the platform, the platform must be given."""
    text = "FROM alpine:3.20 AS on-amd64\nFROM debian:12 AS on-arm64\nFROM on-${TARGETARCH}\n"

    with pytest.raises(
        DockerfileInvalid, match=r"Dockerfile:3: .* is another stage on every platform; name one by --target"
    ):
        dockerfile(tmp_path, text)
    assert base(tmp_path, text, "on-arm64") == "docker.io/library/debian:12"
