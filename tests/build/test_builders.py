"""How builders are called, what is recorded about a build, and the Dockerfile copy for builders without a source
policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from boltseal.build.builders import (
    Build,
    Builder,
    BuilderMissing,
    BuildFailed,
    OnePlatform,
    build_command,
    gathered_in,
    push_command,
    run,
    tidy_command,
)
from boltseal.build.dockerfile_bases import Dockerfile, read
from boltseal.build.ledger_entries import built_extra, same_build
from boltseal.ledger.entry import Entry, EntryKind
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

APP = Reference.parse("localhost:5000/shop/app:in-1")
NODE = Reference.parse("node:16.13")
WAS = Digest.of(b"node")
BUILD = Build(
    Path("ctx"),
    Path("ctx/Dockerfile"),
    APP,
    {"l": "a value"},
    {"V": "1"},
    target="run",
    platform="linux/arm64",
    more=["--no-cache"],
    plain_http=True,
)


@pytest.mark.parametrize(
    ("builder", "begins"),
    [
        (Builder.BUILDX, "env BUILDX_NO_DEFAULT_ATTESTATIONS=1 docker buildx build --load --file"),
        (Builder.DOCKER, "env DOCKER_BUILDKIT=0 docker build --file"),
        (Builder.BUILDAH, "env buildah bud --tls-verify=false --file"),
    ],
)
def test_every_builder_gets_labels_arguments_stage_platform_and_flags(builder: Builder, begins: str) -> None:
    """Each builder's command has labels, arguments, stage, platform and the user's flags; the folder is the last
    argument."""
    words = build_command(builder, BUILD)

    assert " ".join(words).startswith(begins)
    assert words[-2:] == ["--no-cache", "ctx"]
    for flag, value in (
        ("--label", "l=a value"),
        ("--build-arg", "V=1"),
        ("--target", "run"),
        ("--platform", "linux/arm64"),
        ("--tag", str(APP)),
    ):
        assert words[words.index(flag) + 1] == value


def test_a_policy_is_given_by_the_environment_of_the_builder() -> None:
    """buildx has no flag for a source policy, so it is passed in the environment."""
    words = build_command(Builder.BUILDX, Build(Path(), Path("D"), APP, {}, {}, policy=Path("p.json")))

    assert words[:2] == ["env", "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY=p.json"]
    assert push_command(Builder.BUILDX, BUILD) == ["docker", "push", str(APP)]
    assert push_command(Builder.BUILDAH, BUILD) == ["buildah", "push", "--tls-verify=false", str(APP)]
    assert [tidy_command(builder, BUILD) for builder in Builder] == [[], [], []]


def test_a_multi_platform_image_is_built_completely_before_the_push() -> None:
    """buildx builds several platforms into a folder, buildah under a temporary name; the classic builder refuses."""
    build = replace(BUILD, platform="linux/amd64,linux/arm64", gathered="/tmp/x/layout")
    by_buildx, by_buildah = build_command(Builder.BUILDX, build), build_command(Builder.BUILDAH, build)

    assert by_buildx[1:6] == ["docker", "buildx", "build", "--output", "type=oci,tar=false,dest=/tmp/x/layout"]
    assert push_command(Builder.BUILDX, build) == tidy_command(Builder.BUILDX, build) == []
    assert by_buildah[by_buildah.index("--manifest") + 1] == build.gathered
    assert "--tag" not in by_buildah
    assert push_command(Builder.BUILDAH, build)[:4] == ["buildah", "manifest", "push", "--all"]
    assert tidy_command(Builder.BUILDAH, build) == ["buildah", "manifest", "rm", build.gathered]
    with pytest.raises(OnePlatform, match="--builder buildx or buildah"):
        build_command(Builder.DOCKER, build)


@pytest.mark.parametrize("name", ["boltseal-a1_b", "boltseal-_", "boltseal-x__", "BOLTSEAL"])
def test_the_temporary_name_for_buildah_is_valid_whatever_the_folder_is_called(name: str) -> None:
    """buildah's temporary name is valid even if the temporary folder's name could not be a repository."""
    gathered = gathered_in(Builder.BUILDAH, Path("/tmp") / name)

    assert str(Reference.parse(gathered)) == gathered
    assert gathered != gathered_in(Builder.BUILDAH, Path("/tmp/other"))
    assert gathered_in(Builder.BUILDX, Path("/tmp") / name) == f"/tmp/{name}/layout"


def test_a_builder_that_fails_or_is_missing_is_one_line(tmp_path: Path) -> None:
    """A failed or missing builder is one error line with its exit code or signal."""
    with (tmp_path / "log").open("w") as log:
        run(["true"], log)
        with pytest.raises(BuildFailed, match="exit code 7"):
            run(["sh", "-c", "echo failed; exit 7"], log)
        with pytest.raises(BuildFailed, match="signal 9"):
            run(["sh", "-c", "kill -9 $$"], log)
        with pytest.raises(BuilderMissing, match="can't be run"):
            run(["/nonexistent/docker"], log)

    assert (tmp_path / "log").read_text() == "failed\n"


def dockerfile(tmp_path: Path, text: str, **arguments: str) -> Dockerfile:
    (tmp_path / "Dockerfile").write_bytes(text.encode())
    return read(tmp_path, Path("Dockerfile"), arguments, None)


def test_a_dockerfile_copy_names_every_image_by_its_digest(tmp_path: Path) -> None:
    """A Dockerfile's copy has a digest for every image, also behind a variable; stages, scratch and line ends are
    unchanged."""
    text = (
        "ARG V=16.13\r\nFROM node:${V} AS build\r\nRUN echo FROM node:1\r\nFROM scratch AS none\r\n"
        "FROM build\r\nCOPY --from=alpine:3.20 /x /y\r\n"
    )
    found = dockerfile(tmp_path, text, V="18")
    copy = found.pinned(dict.fromkeys(found.image_refs, WAS))

    assert copy == (
        f"ARG V=18\r\nFROM docker.io/library/node:18@{WAS} AS build\r\nRUN echo FROM node:1\r\nFROM scratch AS none\r\n"
        f"FROM build\r\nCOPY --from=docker.io/library/alpine:3.20@{WAS} /x /y\r\n"
    )


def test_an_entry_records_the_base_and_the_images_of_a_build() -> None:
    """A ledger entry names the base by its tag, or `scratch`; too long a list of images is left out, which the hash
    covers."""
    extra = built_extra((NODE, WAS), "abc", {"node:16.13": WAS}, "buildx", "linux/amd64")
    many = built_extra(None, "abc", {f"image{number}": WAS for number in range(100)}, "docker", None)

    assert extra == {
        "base.name": "docker.io/library/node:16.13",
        "base.digest": str(WAS),
        "inputs": "abc",
        "bases": f'{{"node:16.13":"{WAS}"}}',
        "builder": "buildx",
        "platform": "linux/amd64",
    }
    assert many == {"base.name": "scratch", "inputs": "abc", "builder": "docker"}


def test_the_newest_build_of_the_same_inputs_is_found() -> None:
    """The newest build entry with the same input hash is found; other hashes and other kinds of entries are ignored."""

    def entry(time_us: int, kind: EntryKind, inputs: str) -> Entry:
        return Entry(kind=kind, time_us=time_us, registry="r", salt="0" * 32, extra={"inputs": inputs})

    listed = [
        entry(1, EntryKind.BUILT, "a"),
        entry(2, EntryKind.BUILT, "a"),
        entry(3, EntryKind.BUILT, "b"),
        entry(4, EntryKind.RELEASED, "a"),
    ]
    found = same_build(listed, "a")

    assert found is not None
    assert found.time_us == 2
    assert same_build(listed, "c") is None
