"""`boltseal copy` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import program

DIGEST = f"sha256:{'0' * 64}"


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


def test_the_shell_completes_verbs() -> None:
    """Completion as bash asks for it."""
    asked = {"_BOLTSEAL_COMPLETE": "complete_bash", "COMP_WORDS": "boltseal comp", "COMP_CWORD": "1"}

    assert program.run(environment=asked).out.split() == ["compare", "completion"]
