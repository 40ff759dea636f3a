"""`boltseal releases`: what was deployed on this host, when, by whom, and how it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from boltseal.cli.answer import CommandOutput, clean, print_line, print_table
from boltseal.cli.ondeploy import NameOption
from boltseal.cli.onrelease import release_folder, say_left, shown_digest
from boltseal.cli.options import JsonOption

if TYPE_CHECKING:
    from boltseal.deploy.releases import Release


def releases(
    project: NameOption = None,
    images: Annotated[bool, typer.Option("--images", help="Show the images of each release, by service.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the releases of a project on this host, the newest last; of all projects where none is named.

    The one that runs is marked with *, on each engine. One that was left unfinished says at which step.
    """
    with CommandOutput("releases", as_json=as_json) as answer:
        from boltseal.cli.onhost import engine_address
        from boltseal.config import state_folder
        from boltseal.deploy.release_store import projects
        from boltseal.deploy.releases import last_good

        names = [project] if project is not None else list(projects(state_folder()))
        here, rows, unfinished = engine_address().key, [], []
        for name in names:
            found = release_folder(name).all()
            runs = [
                last_good([each for each in found if each.engine == engine])
                for engine in {each.engine for each in found}
            ]
            for each in found:
                current = each in runs
                _add(answer, each, current=current)
                rows += _images(each, current=current) if images else [_row(each, here, current=current)]
                unfinished += [each] if each.unfinished else []
        if as_json:
            return
        if not rows:
            of = "" if project is None else f" of {project}"
            print_line(f"no releases{of} on this host yet; `boltseal deploy` makes the first")
            return
        columns = (
            ("RELEASE", "SERVICE", "STATE", "IMAGE", "DIGEST")
            if images
            else ("RELEASE", "WHEN (UTC)", "BY", "REVISION", "HOW IT ENDED")
        )
        print_table(columns, rows, whole=(*columns[:2], "DIGEST"))
        for each in unfinished:
            say_left(each)


def _add(answer: CommandOutput, release: Release, *, current: bool) -> None:
    from boltseal.lockfile.format import time_text

    answer.add(
        ref=f"{release.project}/{release.number}",
        status=str(release.end or f"unfinished: {release.step}"),
        reason=release.reason,
        runs=current,
        kind=release.kind,
        of=release.of,
        engine=release.engine or None,
        started=time_text(release.started_us),
        ended=None if release.ended_us is None else time_text(release.ended_us),
        who=release.who,
        revision=release.revision,
        services=[
            {
                "service": each.name,
                "image": each.image,
                "digest": each.digest or None,
                "id": each.image_id,
                "state": str(each.state),
                "reason": each.reason,
            }
            for each in release.services
        ],
    )


def _number(release: Release, *, current: bool) -> str:
    return f"{'*' if current else ' '} {release.project}/{release.number}"


def _images(release: Release, *, current: bool) -> list[tuple[str, ...]]:
    return [
        (_number(release, current=current), clean(each.name), each.state, clean(each.image), shown_digest(each))
        for each in release.services
    ]


def _row(release: Release, here: str, *, current: bool) -> tuple[str, ...]:
    from boltseal.lockfile.format import time_text

    kind = "" if release.kind == "deploy" else f"{release.kind}" + ("" if release.of is None else f" to {release.of}")
    end = str(release.end) if release.end is not None else f"unfinished: {release.step}"
    where = "" if release.engine in ("", here) else f"at {release.engine}"
    told = f"{end}{': ' + release.reason if release.reason else ''}"
    return (
        _number(release, current=current),
        time_text(release.started_us)[:16].replace("T", " "),
        clean(release.who),
        clean(release.revision),
        clean(", ".join(part for part in (where, kind, told) if part)),
    )
