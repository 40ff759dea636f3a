"""References in GitHub Actions and GitLab CI, with one trap file for each case."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.project.references.gitlab import include_matcher
from tests.project.projects import found_in, names, pinned, shown, trap, written


def test_containers_services_and_docker_steps_of_a_workflow(tmp_path: Path) -> None:
    """A workflow's containers, services and docker steps are references; scripts and action versions are not."""
    root = trap("actions_containers", tmp_path)

    assert shown(pinned(root)) == {
        ".github/workflows/ci.yml": [
            "container: node:22@DIGEST",
            "image: postgres:16@DIGEST",
            'cache: {image: "redis:7.2@DIGEST", ports: [6379:6379]}',
            "- uses: docker://alpine:3.20@DIGEST",
        ],
        "tools/action.yml": ["image: docker://ghcr.io/shop/tool:1.4.2@DIGEST"],
    }


def test_an_expression_is_not_evaluated(tmp_path: Path) -> None:
    """An expression of GitHub Actions is reported as not resolved, with the reason."""
    found = found_in(trap("actions_containers", tmp_path))

    assert (
        "jobs.long.container.image",
        "? an expression (${{ }}) is evaluated only when the workflow runs; [lock] exclude skips a file that contains one",
    ) in names(found)


def test_images_and_services_of_a_pipeline(tmp_path: Path) -> None:
    """Images and services of a GitLab pipeline are read from file, `default`, all jobs and included files."""
    found = found_in(trap("gitlab_images", tmp_path))

    assert names(found) == [
        ("image", "node:22"),
        ("default.services[0]", "postgres:16"),
        ("default.services[1].name", "redis:7.2"),
        ("test.image.name", "alpine:3.20"),
        ("lint.image", "alpine:3.20"),
        ("proxied.image", "busybox:1.36"),
        ("own.image", "? CI_REGISTRY_IMAGE is not set"),
        (".hidden.image", "golang:1.23"),
        ("more.image", "memcached:1.6"),
    ]


def test_no_digest_is_written_into_a_variable_that_scripts_see(tmp_path: Path) -> None:
    """A variable gets no digest, because scripts see it; literal images do, also after the dependency proxy's prefix."""
    edited = pinned(trap("gitlab_images", tmp_path))

    assert shown(edited) == {
        ".gitlab-ci.yml": [
            "- postgres:16@DIGEST",
            "- name: redis:7.2@DIGEST",
            "image: ${CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX}/busybox:1.36@DIGEST",
        ],
        "ci/more.yml": ["image: memcached:1.6@DIGEST"],
    }
    assert (
        edited.refusals[0].reason
        == "its end comes from NODE, and the job's scripts would see the digest in it; write the tag into the image"
    )


def test_a_variable_that_images_are_resolved_by_is_understood(tmp_path: Path) -> None:
    """The value of a variable is accounted for if an image is resolved by it; any other variable's value is reported."""
    text = """variables:
  USED_IMAGE: shop/used:1
  BELOW_IMAGE: {value: "shop/below:1", description: the base}
  OTHER_IMAGE: shop/other:1
.base: {image: $BELOW_IMAGE}
test: {script: make, stage: test, image: $USED_IMAGE}
more: {script: make, extends: .base, variables: {BELOW_IMAGE: "shop/own:1"}}
"""
    found = found_in(written(tmp_path, {".gitlab-ci.yml": text}))

    assert sorted(name for _, name in names(found)) == ["shop/below:1", "shop/own:1", "shop/used:1"]
    assert [(each.path, each.line, each.value) for each in found.unknown] == [(".gitlab-ci.yml", 4, "shop/other:1")]


def test_a_variable_inside_the_tag_prevents_a_digest(tmp_path: Path) -> None:
    """A variable inside the tag prevents a digest, because any user who starts the pipeline may set it."""
    edited = pinned(trap("gitlab_variable_in_the_tag", tmp_path))

    assert shown(edited) == {".gitlab-ci.yml": ["image: $HUB/redis:7.2@DIGEST"]}
    assert [refusal.reason.partition(":")[0] for refusal in edited.refusals] == ["NODE sets part of its tag"]


@pytest.mark.parametrize(
    ("pattern", "files"),
    [
        ("ci/*.yml", {"ci/a.yml"}),
        ("ci/**.yml", {"ci/a.yml", "ci/b/c.yml", "ci/b/d/e.yml"}),
        ("ci/**/*.yml", {"ci/b/c.yml", "ci/b/d/e.yml"}),
        ("**.yaml", {"x.yaml", "ci/f.yaml"}),
        ("c*/*/*.yml", {"ci/b/c.yml"}),
        ("*", {"x.yaml"}),
        ("***", {"ci/a.yml", "ci/b/c.yml", "ci/b/d/e.yml", "x.yaml", "ci/f.yaml"}),
        ("[c]i/*.yml", set()),
        ("*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*a*b", set()),
    ],
)
def test_the_wildcards_of_an_include(pattern: str, files: set[str]) -> None:
    """Wildcards in `include` match as in GitLab."""
    there = {"ci/a.yml", "ci/b/c.yml", "ci/b/d/e.yml", "x.yaml", "ci/f.yaml"}

    assert {name for name in there if include_matcher(pattern)(name)} == files


def test_a_pattern_includes_the_pipelines_of_subfolders(tmp_path: Path) -> None:
    """`**.yml` includes pipelines of subfolders, and no link is followed out of the project."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/secret.yml").write_text("image: never:1\n")
    root = written(
        tmp_path / "project",
        {".gitlab-ci.yml": "include: /ci/**.yml\n", "ci/a.yml": "image: a:1\n", "ci/b/c.yml": "job: {image: c:1}\n"},
    )
    (root / "ci/out").symlink_to(tmp_path / "out")
    found = found_in(root)

    assert names(found) == [("image", "a:1"), ("job.image", "c:1")]
    assert found.problems == ()


def test_more_patterns_than_gitlab_takes_are_not_followed(tmp_path: Path) -> None:
    """Include patterns beyond GitLab's limit are not followed, since each is compared with every file."""
    includes = "".join(f"- local: /ci/{number}*.yml\n" for number in range(151))
    found = found_in(written(tmp_path, {".gitlab-ci.yml": f"include:\n{includes}"}))

    assert [problem.line for problem in found.problems] == [152]
    assert "at most 150 patterns of at most 255 characters are followed" in found.problems[0].message


def test_a_jobs_variables_change_inherited_images(tmp_path: Path) -> None:
    """A job's variables override those of the job it extends, which override the file's."""
    text = """variables: {V: "1", KIND: slim}
.base: {image: "ruby:$V-$KIND", services: ["redis:$V"]}
.two: {extends: .base, variables: {V: "2"}}
.later: {image: "node:$LATER"}
default: {image: "alpine:$V"}
plain: {script: [x]}
old: {extends: .base}
new: {extends: [.two], variables: {KIND: full}}
other: {image: "php:8", extends: .two}
main: {extends: .later, variables: {LATER: "22"}}
third: {variables: {V: "3"}}
"""
    found = found_in(written(tmp_path, {".gitlab-ci.yml": text}))

    assert sorted(names(found)) == [
        (".base.image", "ruby:1-slim"),
        (".base.services[0]", "redis:1"),
        ("default.image", "alpine:1"),
        ("main.image", "node:22"),
        ("new.image", "ruby:2-full"),
        ("new.services[0]", "redis:2"),
        ("other.image", "php:8"),
        ("other.services[0]", "redis:2"),
        ("third.image", "alpine:3"),
    ]


def test_jobs_that_extend_each_other_end(tmp_path: Path) -> None:
    """Jobs that extend each other, which GitLab refuses, are each read once."""
    text = "a: {extends: b, image: 'x:$V'}\nb: {extends: [a, b, none], variables: {V: '1'}}\n"

    assert ("b.image", "x:1") in names(found_in(written(tmp_path, {".gitlab-ci.yml": text})))


def test_too_many_inherited_images_are_a_problem(tmp_path: Path) -> None:
    """Too many inherited images, such as a thousand jobs with a thousand services, are a problem."""
    services = ", ".join(f"'x{number}:$V'" for number in range(200))
    jobs = "".join(f"j{number}: {{extends: .base, variables: {{V: '{number}'}}}}\n" for number in range(200))
    found = found_in(written(tmp_path, {".gitlab-ci.yml": f".base: {{services: [{services}]}}\n{jobs}"}))

    assert [problem.message for problem in found.problems] == ["its jobs inherit more than 10000 images: not read"]


def test_an_input_of_a_pipeline_is_not_evaluated(tmp_path: Path) -> None:
    """An input of a pipeline is reported as not evaluated."""
    ((_, why),) = names(found_in(written(tmp_path, {".gitlab-ci.yml": 'a: {image: "ruby:$[[ inputs.v ]]"}\n'})))

    assert why.startswith("? an input ($[[ ]]) is evaluated only when the pipeline is created")


def test_variables_of_a_pipeline_are_nested_and_come_from_all_its_files(tmp_path: Path) -> None:
    """Included files and the file that includes them share variables, jobs and defaults; values contain variables."""
    files = {
        ".gitlab-ci.yml": (
            "include: [{local: /ci/base.yml}, {local: 'ci/jobs/*.yml'}]\n"
            'variables: {MAJOR: "22", NODE: "node:$MAJOR.1"}\n'
            "build: {image: '$TOOL', script: [x]}\n"
            "test: {extends: .python, variables: {PY: '3.13'}, script: [x]}\n"
        ),
        "ci/base.yml": "variables: {TOOL: 'tool:${MINOR}', MINOR: '5', MAJOR: '20'}\n.python: {image: 'python:$PY'}\n",
        "ci/jobs/lint.yml": "lint: {image: '$NODE', script: [x]}\n",
    }

    assert names(found_in(written(tmp_path, files))) == [
        ("build.image", "tool:5"),
        ("test.image", "python:3.13"),
        ("lint.image", "node:22.1"),
    ]


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ("{A: '$B', B: '$A'}", "A contains itself"),
        ("{A: 'x:$UNKNOWN'}", "UNKNOWN is not set"),
        ("{A: {value: 'x:$B', expand: false}, B: '1'}", "is not a tag"),
    ],
)
def test_a_variable_that_is_not_evaluated_is_reported(tmp_path: Path, variables: str, why: str) -> None:
    """A variable that contains itself, or one of the server, leaves the reference unresolved with the reason."""
    (found,) = names(found_in(written(tmp_path, {".gitlab-ci.yml": f"variables: {variables}\na: {{image: $A}}\n"})))

    assert why in found[1]
