"""The labels about an image's origin, as flags of `docker build`."""

from __future__ import annotations

import shlex

from boltseal.build.git_state import GitState
from boltseal.build.labels import as_flags, labels_of
from boltseal.oci.reference import Reference
from tests.lockfile.locks import NOW_US, digest

GIT = GitState("a" * 40, "v1.4.2", None, "https://example.com/shop/app", shallow=False)
PREFIX = "org.opencontainers.image."


def test_every_known_fact_has_a_label() -> None:
    """Labels have the image spec's names; the base's name and its digest are separate labels."""
    base = Reference.parse(f"node:16.13@{digest(1)}"), digest(1)

    assert labels_of(GIT, "1.4.2", NOW_US, base) == {
        f"{PREFIX}base.digest": str(digest(1)),
        f"{PREFIX}base.name": "docker.io/library/node:16.13",
        f"{PREFIX}created": "2026-11-24T18:00:00Z",
        f"{PREFIX}revision": "a" * 40,
        f"{PREFIX}source": "https://example.com/shop/app",
        f"{PREFIX}version": "1.4.2",
    }


def test_a_revision_with_changed_files_is_marked() -> None:
    """The revision label shows whether files differ from the commit."""
    dirty = GitState("a" * 40, "v1.4.2", "f" * 64, "", shallow=False)

    assert labels_of(dirty, "", NOW_US, None)[f"{PREFIX}revision"] == "a" * 40 + "-dirty"


def test_an_unknown_fact_has_no_label() -> None:
    """An unknown fact gets no label, because an empty one would state that there is none."""
    assert list(labels_of(None, "", NOW_US, None)) == [f"{PREFIX}created"]


def test_a_shell_reads_the_flags_unchanged() -> None:
    """Quoted flags keep any text of a version through a shell."""
    flags = list(as_flags({"a": "x y", "b": "$(id)'"}, annotations=True))

    assert [shlex.split(flag) for flag in flags] == [
        ["--label", "a=x y"],
        ["--annotation", "a=x y"],
        ["--label", "b=$(id)'"],
        ["--annotation", "b=$(id)'"],
    ]
