"""The file `boltseal.holds`."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.lockfile.holds import (
    HOLDS_NAME,
    MAX_HOLDS,
    HeldDigest,
    HoldsInvalid,
    format_holds,
    git_end_hint,
    held_references,
    parse_holds,
)
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.project.held_digests import read_holds

WEB = HeldDigest(Reference.parse("reg.test/web:1"), Digest.of(b"web"), "a" * 40)
DB = HeldDigest(Reference.parse("reg.test/db:2"), Digest.of(b"db"), "b" * 40)


def test_holds_are_read_as_they_were_written() -> None:
    """A written file is sorted, has each hold once, and is read back the same."""
    text = format_holds([WEB, DB, WEB])

    assert parse_holds(text) == (DB, WEB)
    assert format_holds([DB, WEB]) == text
    assert held_references([WEB]) == {
        WEB.reference: "held by boltseal.holds, since a rollback took commit aaaaaaaaaaaa back"
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"holds": [], "more": 1}',
        '{"holds": [{"ref": "reg.test/web:1", "digest": "sha256:1", "undone": "a"}]}',
        '{"holds": [{"ref": "/", "digest": "' + str(WEB.digest) + '", "undone": "a"}]}',
        '{"holds": [{"ref": "reg.test/web:1", "digest": "' + str(WEB.digest) + '"}]}',
        '<<<<<<< ours\n{"holds": []}\n',
    ],
)
def test_a_damaged_file_is_refused(text: str) -> None:
    """A file with an unknown key, a missing or an invalid value, or conflict marks ends the command: a hold may be in it."""
    with pytest.raises(HoldsInvalid, match="restore it from git"):
        parse_holds(text)


def test_too_many_holds_are_refused() -> None:
    """A file may have 10,000 holds and no more, because the file comes with the checkout."""
    most = [
        HeldDigest(Reference.parse(f"reg.test/web:{number}"), WEB.digest, WEB.undone) for number in range(MAX_HOLDS)
    ]

    assert len(parse_holds(format_holds(most))) == MAX_HOLDS
    with pytest.raises(HoldsInvalid, match="10001 holds, expected at most 10000"):
        parse_holds(format_holds([*most, HeldDigest(Reference.parse("reg.test/web:more"), WEB.digest, WEB.undone)]))


def test_a_link_out_of_the_project_is_not_followed(tmp_path: Path) -> None:
    """The file comes with the checkout: a symbolic link is refused, and no file is no hold."""
    project = tmp_path / "project"
    project.mkdir()
    (tmp_path / "outside").write_text(format_holds([WEB]))

    assert read_holds(project) == ()
    (project / HOLDS_NAME).symlink_to(tmp_path / "outside")
    with pytest.raises(HoldsInvalid):
        read_holds(project)


def test_the_hint_names_the_branch_where_it_is_known() -> None:
    """The command can be pasted; where the branch is not known, NAME stands for it."""

    assert git_end_hint() == "end it with `boltseal release hold --end --git-branch NAME`"
    assert git_end_hint("--git-branch main") == "end it with `boltseal release hold --end --git-branch main`"
