"""`boltseal copy`: which image goes under which name."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.commands.copy import image_names
from boltseal.transfer.locations import Location
from tests.cli import program

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
def test_the_names_of_a_copy(src: str, dst: str, names: tuple[str | None, str | None]) -> None:
    """The target's own name, else the source's tag; `latest` only where nothing was named at all."""
    assert image_names(Location.parse(src), Location.parse(dst)) == names


@pytest.mark.parametrize(
    "arguments",
    [
        ("r.test/a:1", f"s.test/b@{DIGEST}"),
        ("--all-tags", "r.test/a:1", "s.test/b"),
        ("--all-tags", "r.test/a", "docker-archive:x.tar"),
        ("oci:", "s.test/b"),
    ],
)
def test_a_copy_that_cannot_be_meant_is_usage(arguments: tuple[str, ...]) -> None:
    """Refused before anybody is asked."""
    assert program.call("copy", *arguments).code == 2


def test_a_layout_that_is_not_there_does_not_hold(tmp_path: Path) -> None:
    """Not found is exit code 1, with a reason, in JSON too."""
    told = program.call("copy", f"oci:{tmp_path}:1", f"oci:{tmp_path}/to:1", "--json")

    assert told.code == 1
    assert told.json["outcome"] == "differs"
    assert "no OCI image layout" in told.json["errors"][0]["message"]


@pytest.mark.lengthy
def test_the_shell_completes_verbs() -> None:
    """Completion as bash asks for it."""
    asked = {"_BOLTSEAL_COMPLETE": "complete_bash", "COMP_WORDS": "boltseal comp", "COMP_CWORD": "1"}

    assert program.run(environment=asked).out.split() == ["compare"]
