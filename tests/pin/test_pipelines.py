"""GitHub Actions and GitLab CI: one trap each."""

from __future__ import annotations

from pathlib import Path

from tests.pin.projects import found_in, names, pinned, shown, trap


def test_containers_services_and_docker_steps_of_a_workflow(tmp_path: Path) -> None:
    """Short and long forms; an action's own image; never the text of a script, nor an action's version."""
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
    """It is a site all the same, and says why it names nothing."""
    found = found_in(trap("actions_containers", tmp_path))

    assert ("jobs.long.container.image", "? an expression (${{ }}) is known only when the workflow runs") in names(
        found
    )


def test_images_and_services_of_a_pipeline(tmp_path: Path) -> None:
    """Of the file, of default, of jobs hidden or not, and of what is included of the same project."""
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
    """What stands in the image itself is pinned, behind the dependency proxy's prefix too."""
    edited = pinned(trap("gitlab_images", tmp_path))

    assert shown(edited) == {
        ".gitlab-ci.yml": [
            "- postgres:16@DIGEST",
            "- name: redis:7.2@DIGEST",
            "image: ${CI_DEPENDENCY_PROXY_GROUP_IMAGE_PREFIX}/busybox:1.36@DIGEST",
        ],
        "ci/more.yml": ["image: memcached:1.6@DIGEST"],
    }
    assert edited.refusals[0].reason == "its end comes from NODE, and scripts of the job would see the digest in it"


def test_a_variable_inside_the_tag_forbids_a_digest_behind_it(tmp_path: Path) -> None:
    """Whoever starts the pipeline may set it."""
    edited = pinned(trap("gitlab_variable_in_the_tag", tmp_path))

    assert shown(edited) == {".gitlab-ci.yml": ["image: $HUB/redis:7.2@DIGEST"]}
    assert [refusal.reason.partition(":")[0] for refusal in edited.refusals] == ["NODE gives part of its tag"]
