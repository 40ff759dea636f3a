"""Checks containers: the stack, the -init layer, mounts, and what the process of a running one sees."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.engines.overlay_processes import ProcessRoot
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable, readable
from boltseal.host.scrub.changing_containers import Processes, check_until_settled
from boltseal.host.scrub.container_changes import MOUNTED_OVER, ContainerChange, init_differences, list_changes
from boltseal.host.scrub.differences import Difference, shown
from boltseal.host.scrub.engine_mounts import EngineMounts
from boltseal.host.scrub.file_contents import CountRead
from boltseal.host.scrub.find_stores import FoundStore
from boltseal.host.scrub.mount_points import mounts_in
from boltseal.host.scrub.plans import ContainerPlan
from boltseal.host.scrub.process_view import compare_process_view
from boltseal.host.scrub.report import ScrubReport, status_of
from boltseal.host.scrub.share_parts import ReadParts
from boltseal.host.scrub.store_recheck import StoreRecheck

VIEWS_UNCHECKED: Final = "what processes of containers on the driver vfs see"


@dataclass(frozen=True, slots=True)
class ContainerCheck:
    """Checks the containers of stores. `parts`: what this run reads; `proc`: the process file system."""

    parts: ReadParts
    engine_mounts: EngineMounts
    count_read: CountRead
    proc: Path

    def reports(self, store: FoundStore, containers: Sequence[ContainerPlan], after: StoreRecheck) -> list[ScrubReport]:
        """Check containers of one store, those that change meanwhile again. `after`: the store's metadata since."""
        mine = [after.unless_changed(each) for each in containers]
        found = check_until_settled(mine, self._check, lambda: store.plan(store.root).containers, self.proc)
        return [self.parts.record_container(*each) for each in zip(mine, found, strict=True)]

    def _check(self, containers: Sequence[ContainerPlan], processes: Processes) -> list[ScrubReport]:
        return [self._report(self.engine_mounts.with_container(each), processes) for each in containers]

    def _report(self, container: ContainerPlan, processes: Processes) -> ScrubReport:
        found, unknown = list(container.differences), [*container.unknown, *processes.unseen]
        changed: list[ContainerChange] = []
        running = processes.of(container)
        mounted = _mounted(container, unknown)
        try:
            found += init_differences(container.root, container.init, container.lowers[1:])
            changed = list_changes(container)
        except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
            unknown.append(error.message)
        unknown += _other_layer_reasons(container, running, processes.roots)
        if running is not None:
            compared = compare_process_view(container, running, self.parts.container_mode(container), self.count_read)
            found += compared.differences
            unknown += compared.unknown
            changed += [ContainerChange(path, MOUNTED_OVER) for path in compared.mounted_over]
        found += dict.fromkeys((*mounted, *_mounted(container, unknown)))
        return ScrubReport(
            what="container",
            ref=container.name or readable(container.id.encode())[:12],
            status=status_of(len(found), tuple(unknown)),
            store=container.store,
            root=str(container.root),
            id=container.id,
            names=(container.name,),
            layers=len(container.lowers),
            differences=tuple(found),
            count=len(found),
            unknown=tuple(dict.fromkeys(unknown)),
            changed=tuple(changed),
            running=running.pid if running is not None else 0,
            unchecked=() if container.copy_of is None else (VIEWS_UNCHECKED,),
        )


def _other_layer_reasons(
    container: ContainerPlan, running: ProcessRoot | None, roots: Mapping[bytes, ProcessRoot]
) -> list[str]:
    """Return a reason if the first process that the store records for a container runs on another layer of the store.

    Then the checked layers are not those that run: the container's layer in the store's metadata was changed.
    """
    first = next((each for each in roots.values() if each.pid == container.pid), None)
    if container.pid == 0 or first is None or (running is not None and running.pid == first.pid):
        return []
    if not Path(os.fsdecode(os.path.realpath(first.upper))).is_relative_to(container.root.resolve()):
        return []
    return [f"process {first.pid}, which the store records for it, runs on {shown(readable(first.upper))}"]


def _mounted(container: ContainerPlan, unknown: list[str]) -> list[Difference]:
    """Return the mounts in the folders of a container's layers."""
    folders = [folder for folder in (container.upper, *container.lowers) if folder is not None]
    try:
        return mounts_in(container.root, folders)
    except (StoreMissing, StoreUnreadable, StoreMalformed) as error:
        unknown.append(error.message)
        return []
