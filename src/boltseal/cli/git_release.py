"""Options and output of `deploy`, `rollback` and `release hold` on a branch of git."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from boltseal.cli.explanation_text import as_text
from boltseal.cli.output import CommandOutput, say
from boltseal.commands.explained_changes import Explanation
from boltseal.commands.git_release import GitRelease, GitReleaseRequest, Message
from boltseal.commands.registry_access import RegistryOptions
from boltseal.commands.text import clean, counted
from boltseal.errors import Invalid

GitBranchOption = Annotated[
    str | None,
    typer.Option(
        "--git-branch",
        metavar="NAME",
        show_default=False,
        help="Commit to this branch of the project's git repository, for Flux or Argo CD; apply nothing.",
    ),
]
GitRemoteOption = Annotated[
    str | None,
    typer.Option(
        "--git-remote",
        metavar="NAME",
        show_default=False,
        help="With --git-branch: the branch of this remote, pushed only if no other process moved it meanwhile.",
    ),
]


def git_request(
    folder: Path | None,
    branch: str | None,
    remote: str | None,
    *,
    update: bool = False,
    allow: Sequence[str] | None = None,
) -> GitReleaseRequest:
    """Return the request of a command with --git-branch. Raises: Invalid: --git-remote alone."""
    if branch is None:
        raise Invalid("--git-remote needs --git-branch, which names the branch of that remote")
    return GitReleaseRequest(folder or Path.cwd(), branch, remote or "", update, tuple(allow or ()))


def git_message(access: RegistryOptions) -> Message:
    """Return what makes the lines of a commit's message."""

    def lines(explained: Sequence[Explanation]) -> Sequence[str]:
        return as_text(explained, access.client.now_us())

    return lines


def check_alone(given: dict[str, object]) -> None:
    """Raises: Invalid: an option that does not go with a branch of git."""
    names = [name for name, value in given.items() if value]
    if names:
        raise Invalid(f"--git-branch and {', '.join(names)} exclude each other")


def print_git_release(output: CommandOutput, found: GitRelease, what: str) -> None:
    """Print a commit, or that there was nothing to commit. `what`: deployed, or restored."""
    branch = found.branch
    for image in found.images:
        output.add(
            ref=str(image.reference),
            status=what,
            reason=f"in commit {found.commit}",
            digest=None if image.digest is None else str(image.digest),
            branch=branch.name,
            commit=found.commit,
        )
        output.print(clean(f"{image.reference.familiar()}  {image.digest}"))
    if not found.commit:
        output.add(ref=branch.name, status="unchanged", reason="", branch=branch.name, commit=branch.tip)
        output.print(clean(f"{branch.title} is up to date at commit {branch.tip[:12]}; nothing was committed"))
        return
    if not found.images:
        output.add(ref=branch.name, status=what, reason="", branch=branch.name, commit=found.commit)
    if found.undone:
        say(f"also taken back: {counted(found.undone, 'commit')} of others in this folder")
    verb = "pushed to" if branch.remote else "committed to"
    output.print(clean(f"{counted(len(found.files), 'file')} {verb} {branch.title}: commit {found.commit}"))
