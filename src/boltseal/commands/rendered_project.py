"""Add to an opened project the images that its own tools print (`lock --render`)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final

from boltseal.commands.progress import Progress, no_progress
from boltseal.commands.project_images import OpenedProject
from boltseal.errors import BoltsealError, quote
from boltseal.lockfile.document import Rendered
from boltseal.project.ignored import IgnoredReference, ignored_by
from boltseal.project.image_references import Format, ImageReference, ScanProblem
from boltseal.project.rendering.printed_images import RENDERED, Printed, printed_images
from boltseal.project.rendering.tool_runs import NotRendered, RunningTools
from boltseal.project.rendering.tools import render, renderable
from boltseal.project.source_files import OUTSIDE

AT_ONCE: Final = 2
"""How many tools run at the same time; each may use several processors itself."""


@dataclass(frozen=True, slots=True)
class RenderedProject:
    """A project with the images of its rendered parts. `done`: what was rendered."""

    opened: OpenedProject
    done: tuple[Rendered, ...] = ()


def find_renderable(opened: OpenedProject) -> list[Rendered]:
    """Return what can be rendered in a project, without what its settings exclude."""
    found = renderable(opened.asked.project, opened.found, opened.paths)
    return [each for each in found if _is_open(opened, each)]


def add_rendered(
    opened: OpenedProject,
    wanted: Iterable[Rendered],
    environment: Mapping[str, str],
    progress: Progress = no_progress,
) -> RenderedProject:
    """Render these parts of a project. One that can't be rendered is a problem of the result; the others are added.

    `environment`: the user's, for the paths of the tools. Parts outside the paths of the scan are left out.
    """
    done: list[Rendered] = []
    image_refs: list[ImageReference] = []
    problems: list[ScanProblem] = []
    parts = [each for each in wanted if _is_open(opened, each)]
    with closing(_printed(opened, parts, environment)) as results:
        for number, (each, printed) in enumerate(results):
            progress("rendering", number, len(parts))
            try:
                if isinstance(printed, NotRendered):
                    raise printed
                image_refs += printed_images(each, printed, opened.found, opened.settings.crds)
                done.append(each)
            except BoltsealError as error:
                problems.append(ScanProblem(each.path, 0, f"{each.title} can't be rendered: {error.message}"))
    return RenderedProject(_with(opened, done, image_refs, problems), tuple(done))


def _printed(
    opened: OpenedProject, parts: Sequence[Rendered], environment: Mapping[str, str]
) -> Generator[tuple[Rendered, Printed | NotRendered]]:
    """Yield what each part's tool prints, or why it does not, in order. An interruption ends the tools that run."""
    running = RunningTools()

    def run(each: Rendered) -> Printed | NotRendered:
        try:
            _check_inside(opened, each)
            return render(each, opened.asked.project, environment, running)
        except NotRendered as error:
            return error

    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            yield from zip(parts, pool.map(run, parts), strict=True)
        except BaseException:  # also Ctrl-C, and GeneratorExit if the caller fails: the pool would wait for the tools
            running.end()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def without_shown(opened: OpenedProject) -> OpenedProject:
    """Return a project without the printed images that its files show as they are: one result for both is enough."""
    shown = {each.resolved for each in opened.image_refs if each.format != RENDERED}
    kept = tuple(each for each in opened.image_refs if each.format != RENDERED or each.resolved not in shown)
    return replace(opened, image_refs=kept)


def _check_inside(opened: OpenedProject, each: Rendered) -> None:
    """Check that Compose reads no file outside of the project that the scan has left out: values in it could become names.

    Raises: NotRendered.
    """
    folder = "" if each.path == "." else f"{each.path}/"
    for problem in opened.problems if each.tool == "compose" else ():
        if problem.message.startswith(OUTSIDE) and (problem.path == each.path or problem.path.startswith(folder)):
            raise NotRendered(f"{quote(problem.path)} names a file that {problem.message}")


def _is_open(opened: OpenedProject, each: Rendered) -> bool:
    return not opened.outside(each.path) and not opened.settings.excludes(each.path)


def _with(
    opened: OpenedProject,
    done: Sequence[Rendered],
    printed: Sequence[ImageReference],
    problems: Sequence[ScanProblem],
) -> OpenedProject:
    """Add what was printed, and leave out what the files alone did not show: the output has it."""
    charts = [each.path for each in done if each.tool == "helm"]
    places = {(each.path, each.where.partition(": ")[2]) for each in printed}
    kept = [each for each in opened.image_refs if not _is_replaced(each, charts, places)]
    ignored = [
        IgnoredReference(each, reason)
        for each in printed
        if (reason := ignored_by(each, opened.settings.ignore)) is not None
    ]
    left_out = {each.image_ref for each in ignored}
    added = [each for each in printed if each not in left_out and not opened.settings.excludes(each.path)]
    return replace(
        opened,
        image_refs=(*kept, *dict.fromkeys(added)),
        problems=(*opened.problems, *problems),
        notes=tuple(each for each in opened.notes if not _in_chart(each.path, charts)),
        unknown=tuple(each for each in opened.unknown if not _in_chart(each.path, charts)),
        ignored=(*opened.ignored, *ignored),
    )


def _is_replaced(image_ref: ImageReference, charts: Sequence[str], places: set[tuple[str, str]]) -> bool:
    if image_ref.resolved is not None or image_ref.image_id:
        return False
    in_values = image_ref.format == Format.HELM and _in_chart(image_ref.path, charts)
    return in_values or (image_ref.path, image_ref.where) in places


def _in_chart(path: str, charts: Sequence[str]) -> bool:
    """Return whether a file is a template of these charts, or has their own values."""
    for chart in charts:
        folder = "" if chart == "." else f"{chart}/"
        if path.startswith(f"{folder}templates/") or path == f"{folder}values.yaml":
            return True
    return False
