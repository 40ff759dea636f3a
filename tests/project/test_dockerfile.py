"""References in Dockerfiles, with one trap file for each case."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.projects import found_in, names, pinned, shown, trap, written

NO_POSITION = "it depends on a variable that other instructions use too or that has no default"


def test_from_inside_a_heredoc_is_text(tmp_path: Path) -> None:
    """FROM inside a heredoc of RUN or COPY, in any form, is text."""
    assert names(found_in(trap("dockerfile_heredoc", tmp_path))) == [("FROM, stage 0", "alpine:3.20")]


def test_an_arg_before_from_is_pinned_in_its_default(tmp_path: Path) -> None:
    """A reference or tag in an ARG before FROM is pinned in its default, unless the stage uses the variable."""
    root = trap("dockerfile_args", tmp_path)
    edited = pinned(root)

    assert shown(edited) == {
        "Dockerfile": [
            "ARG NODE=22@DIGEST",
            "ARG IMAGE=registry.example.com/shop/base:1.4.2@DIGEST",
            'ARG REGISTRY=registry.example.com GO="1.23@DIGEST"',
            "ARG INNER=7.2@DIGEST",
            "FROM ${REGISTRY}/tool:1@DIGEST AS three",
            "FROM postgres:${PG:-16@DIGEST} AS seven",
        ]
    }
    assert [(refusal.image_ref.where, refusal.reason) for refusal in edited.refusals] == [
        ("FROM, stage five", NO_POSITION)
    ]
    assert ("FROM, stage eight", "? NONE is not set") in names(found_in(root))


def test_one_arg_of_two_equal_from_lines_is_pinned_once(tmp_path: Path) -> None:
    """An ARG used by two equal FROM lines, which resolve to one image, is pinned once."""
    assert shown(pinned(trap("dockerfile_same_text_twice", tmp_path))) == {"Dockerfile": ["ARG V=22@DIGEST"]}


def test_one_arg_of_two_different_images_is_not_pinned(tmp_path: Path) -> None:
    """An ARG used for two different images is not pinned."""
    root = written(tmp_path, {"Dockerfile": "ARG V=22\nFROM node:${V} AS a\nFROM python:${V}\n"})

    assert [image_ref.override_only for image_ref in found_in(root).image_refs] == [NO_POSITION, NO_POSITION]


def test_a_variable_inside_the_tag_prevents_a_digest(tmp_path: Path) -> None:
    """`FROM node:${NODE}-alpine` gets no digest: a build argument would combine a new tag with the old image."""
    edited = pinned(trap("dockerfile_variable_in_the_tag", tmp_path))

    assert shown(edited) == {
        "Dockerfile": [
            "ARG PY=3.13@DIGEST",
            "FROM ${BASE}/redis:7.2@DIGEST AS three",
            "FROM python:3.${MINOR:-13@DIGEST} AS four",
        ]
    }
    assert [(refusal.image_ref.where, refusal.reason.partition(":")[0]) for refusal in edited.refusals] == [
        ("FROM, stage one", "NODE sets part of its tag"),
        ("FROM, stage two", "GO sets part of its tag"),
        ("FROM, stage five", "MAJOR sets part of its tag"),
    ]


def test_stages_numbers_and_scratch_are_no_images(tmp_path: Path) -> None:
    """Stage names, numbers and scratch in FROM, `COPY --from` and `RUN --mount` are no references."""
    root = trap("dockerfile_stages", tmp_path)

    assert names(found_in(root)) == [
        ("FROM, stage build", "golang:1.23"),
        ("COPY --from", "busybox:1.36"),
        ("RUN --mount=from", "alpine:3.20"),
        ("COPY --from", "? BuildKit does not fill in variables here; name a stage of a FROM instead"),
        ("ONBUILD COPY --from", "redis:7.2"),
    ]
    assert shown(pinned(root))["Dockerfile"] == [
        "FROM golang:1.23@DIGEST AS Build",
        "COPY --chown=0 --from=busybox:1.36@DIGEST /c /c",
        "RUN --mount=type=bind,from=alpine:3.20@DIGEST,target=/m --mount=type=cache,target=/c --network=none ls",
        "ONBUILD COPY --from=redis:7.2@DIGEST /e /e",
    ]


def test_directives_escapes_and_comments_between_lines_are_read(tmp_path: Path) -> None:
    """Directives, other escape characters and comments between lines are read; the frontend is pinned too."""
    root = trap("dockerfile_directives", tmp_path)
    found = found_in(root)

    assert [(image_ref.where, image_ref.line, image_ref.platforms) for image_ref in found.image_refs] == [
        ("syntax", 1, ()),
        ("FROM, stage web", 8, ("linux/arm64",)),
        ("FROM, stage 1", 10, ()),
        ("FROM, stage 2", 11, ()),
    ]
    assert found.image_refs[3].why == "TARGETARCH selects another image on each platform"
    assert shown(pinned(root))["Dockerfile"] == [
        "# syntax=docker/dockerfile:1.9@DIGEST",
        "nginx:1.25@DIGEST `",
        "FROM --platform=$BUILDPLATFORM redis:7.2@DIGEST",
    ]


def test_every_name_of_a_dockerfile_is_recognised(tmp_path: Path) -> None:
    """Each name of a Dockerfile is recognised, without its ignore file; line ends and a byte order mark stay."""
    root = trap("dockerfile_names", tmp_path)

    assert shown(pinned(root)) == {
        "Containerfile": ["FROM alpine:3.20@DIGEST"],
        "Dockerfile.dev": ["From redis:7.2@DIGEST"],
        "api.Dockerfile": ["from nginx:1.25@DIGEST"],
        "crlf.dockerfile": [
            "# syntax=docker/dockerfile:1@DIGEST",
            "nginx:1.25@DIGEST",
            "COPY --from=redis:7.2@DIGEST a b",
        ],
    }


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("FROM no${V#\\x}de", "uses a form of ${V} that is not evaluated"),
        ("FROM ${V/x}", "uses a form of ${V} that is not evaluated"),
        ("ARG V=node\nFROM ${V//*/x}", "its pattern matches any text"),
        ("ARG V=node\nFROM ${V#a*b*c*}", "it has too many wildcards"),
        ("FROM no${V#x}de", "V is not set"),
        ("FROM ${V:?give_one}", "V is not set: give_one"),
        ("ARG V\nFROM node:${V:-}", "V is not set"),
        ("ARG V\nFROM ${V:+node:22}", "V is not set"),
        ('FROM "nginx:1.25"', "it has quotes inside the word, which are not evaluated"),
        ("FROM node:${V:-2", "has no closing brace"),
        ("FROM Node:22", "must be lower-case"),
    ],
)
def test_an_unevaluated_reference_is_reported(tmp_path: Path, line: str, why: str) -> None:
    """A reference that can't be evaluated is reported with the reason, never guessed."""
    (image_ref,) = found_in(written(tmp_path, {"Dockerfile": f"{line}\n"})).image_refs

    assert (image_ref.resolved, image_ref.edit_range) == (None, None)
    assert why in str(image_ref.why)


@pytest.mark.parametrize(
    ("value", "form", "name"),
    [
        ("v1.2", "${V#v}", "node:1.2"),
        ("v1.2", "${V#x}", "node:v1.2"),
        ("a-b-c", "${V#*-}", "node:b-c"),
        ("a-b-c", "${V##*-}", "node:c"),
        ("a-b-c", "${V%-*}", "node:a-b"),
        ("a-b-c", "${V%%-*}", "node:a"),
        ("a-b-c", "${V%?}c", "node:a-b-c"),
        ("a-b-b", "${V/b/x}", "node:a-x-b"),
        ("a-b-b", "${V//b/x}", "node:a-x-x"),
        ("1+2", "${V/+/_}", "node:1_2"),
        ("1.2-x", "${V/-*/}", "node:1.2"),
        ("slim", "22${V:+-$V}", "node:22-slim"),
        ("22", "${V:?no version}", None),
        ("22", "${V:?}", "node:22"),
        ("22", "${V:-}", "node:22"),
    ],
)
def test_the_forms_of_variables_are_those_of_buildkit(tmp_path: Path, value: str, form: str, name: str | None) -> None:
    """Prefixes, suffixes, replacements and defaults of variables result in the tag that BuildKit would use."""
    found = found_in(written(tmp_path, {"Dockerfile": f"ARG V={value}\nFROM node:{form}\n"}))

    assert [each.resolved.familiar() if each.resolved else None for each in found.image_refs] == [name]
    if "#" in form or "%" in form or "/" in form:
        assert found.image_refs[0].edit_range is None


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("FROM a\nRUN <<EOF\nls\n", 2, "has a heredoc without its end line 'EOF'"),
        ("# escape=x\nFROM a\n", 1, "has an escape directive that is neither \\ nor `"),
        ("# syntax=a\n# syntax=b\nFROM a\n", 2, "gives the directive syntax twice"),
        ("FROM a\nFROM\n", 2, "has a FROM without an image"),
        ("x" * (1024 * 1024 + 1), 0, "is not read as a Dockerfile: 1048577 bytes, at most 1 MiB"),
    ],
)
def test_a_file_that_buildkit_refuses_is_a_problem(tmp_path: Path, text: str, line: int, message: str) -> None:
    """A Dockerfile that BuildKit would refuse is a problem with the line, without references."""
    found = found_in(written(tmp_path, {"Dockerfile": text}))

    assert found.image_refs == ()
    assert [(problem.line, problem.message) for problem in found.problems] == [(line, message)]


def test_an_unevaluated_default_is_not_taken_for_empty(tmp_path: Path) -> None:
    """A default that is not evaluated leaves the reference unresolved: `node:22` is not `node:22-alpine`."""
    root = written(tmp_path, {"Dockerfile": 'ARG KIND=-"alpine"\nARG BASE=node:22${KIND}\nFROM ${BASE}\n'})

    assert names(found_in(root)) == [
        (
            "FROM, stage 0",
            "? the value of BASE is not evaluated: it has quotes or escapes inside, or too many variables",
        )
    ]


@pytest.mark.parametrize(
    "mount", ['"from=alpine:3.20",target=/x', "type=bind,'from=alpine:3.20'", '"' + "x" * 140_000, "x'\r'"]
)
def test_a_mount_with_quotes_is_not_resolved(tmp_path: Path, mount: str) -> None:
    """A mount with quotes, which may name an image, is reported as not resolved."""
    found = names(found_in(written(tmp_path, {"Dockerfile": f"FROM node:22\nRUN --mount={mount} ls\n"})))

    assert found[0] == ("FROM, stage 0", "node:22")
    assert found[1:] in (
        [],
        [("RUN --mount=from", "? it has quotes inside the word, which are not evaluated")],
    )
    assert (len(found) == 2) == ("from=" in mount)


def test_a_copy_may_name_a_later_stage(tmp_path: Path) -> None:
    """`COPY --from` may name a later stage, and FROM only an earlier one, as in BuildKit."""
    text = "FROM alpine:3.20 AS a\nCOPY --from=nginx /x /x\nRUN --mount=from=NGINX,target=/y ls\nFROM nginx AS nginx\n"

    assert names(found_in(written(tmp_path, {"Dockerfile": text}))) == [
        ("FROM, stage a", "alpine:3.20"),
        ("FROM, stage nginx", "nginx"),
    ]


@pytest.mark.parametrize(
    "base", ["${KIND}", "pro${END:-d}", "${NONE:-scratch}", "${KIND}-${TARGETARCH}", "PROD-$TARGETOS-x"]
)
def test_a_from_may_name_a_stage_by_variables(tmp_path: Path, base: str) -> None:
    """FROM may name a stage by variables; a stage that differs by platform is no image either."""
    text = f"ARG KIND=prod\nFROM alpine:3.20 AS prod\nFROM alpine:3.20 AS prod-amd64\nFROM scratch AS prod-linux-x\nFROM {base}\n"

    assert [where for where, _ in names(found_in(written(tmp_path, {"Dockerfile": text})))] == [
        "FROM, stage prod",
        "FROM, stage prod-amd64",
    ]


def test_a_from_that_differs_by_platform_is_reported(tmp_path: Path) -> None:
    """No stage has such a name."""
    text = "FROM alpine:3.20 AS build-amd64\nFROM shop/base-${TARGETARCH}:1\n"

    assert names(found_in(written(tmp_path, {"Dockerfile": text})))[1:] == [
        ("FROM, stage 1", "? TARGETARCH selects another image on each platform")
    ]
