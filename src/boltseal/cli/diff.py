"""`boltseal diff`: what changed between two releases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, Outcome, clean, print_line, print_table
from boltseal.cli.ondeploy import NameOption, project_name
from boltseal.cli.onrelease import release_folder
from boltseal.cli.options import JsonOption

if TYPE_CHECKING:
    from boltseal.deploy.release_store import ReleaseFolder
    from boltseal.deploy.releases import ReleaseContents

_LONGEST = 200


def diff(
    before: Annotated[int, typer.Argument(metavar="N", show_default=False, help="A release.")],
    after: Annotated[int, typer.Argument(metavar="M", show_default=False, help="Another one.")],
    project: NameOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between two releases: images, their labels and bases, settings, environment, files.

    Values of the environment are compared, and never shown.

    Exit code 0: nothing; 1: something.
    """
    with CommandOutput("diff", as_json=as_json) as answer:
        from boltseal.deploy.release_diff import changes

        folder = release_folder(project_name(project))
        old, new = folder.read(before), folder.read(after)
        found = changes(old, new, _contents(folder, before), _contents(folder, after))
        for each in found:
            answer.add(
                ref=each.service or folder.project,
                status=each.what,
                reason=f"{each.before or 'nothing'} -> {each.after or 'nothing'}",
                before=each.before or None,
                after=each.after or None,
            )
        answer.outcome = Outcome.DIFFERS if found else Outcome.HOLDS
        if as_json:
            return
        if not found:
            print_line(f"releases {before} and {after} of {folder.project} are the same")
            return
        rows = [(each.service, each.what, _short(each.before), _short(each.after)) for each in found]
        print_table(("SERVICE", "WHAT", f"RELEASE {before}", f"RELEASE {after}"), rows)


def _contents(folder: ReleaseFolder, number: int) -> ReleaseContents | None:
    """What was recorded with a release, None where only its record is kept."""
    from boltseal.deploy.release_store import NoSuchRelease

    try:
        return folder.contents(number)
    except NoSuchRelease:
        return None


def _short(text: str) -> str:
    return clean(text if len(text) <= _LONGEST else f"{text[:_LONGEST]}...") or "-"
