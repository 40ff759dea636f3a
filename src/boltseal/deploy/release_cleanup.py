"""What follows a healthy release: its images are archived, and what belongs to releases that are too old is removed.

1. The contents of old releases are dropped, on this machine and on the engine.
2. Their images are no longer held on the engine.
3. The images of the last ARCHIVED_RELEASES healthy releases are archived, then other images are removed from the archive.

Each step begins with what is there, so a deploy finishes what a killed process left, also one that has nothing to start.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from boltseal.deploy.release_images import hold_reason
from boltseal.deploy.release_store import ReleaseFolder, projects
from boltseal.engines.api import NoSuchImage
from boltseal.errors import BoltsealError
from boltseal.host.changed_images import marked
from boltseal.host.engine_images import EngineHost
from boltseal.host.image_archive import ImageArchive
from boltseal.host.keeper import Keeper
from boltseal.oci.digest import Digest
from boltseal.project.settings import project_settings

ARCHIVED_RELEASES: Final = 5
"""The number of healthy releases of a project whose images are archived: no prune of the engine removes those."""


@dataclass(frozen=True, slots=True)
class ReleaseCleanup:
    """Cleans up after the releases of one project. `archive`: of the images, None to archive none. `progress`: receives lines."""

    folder: ReleaseFolder
    host: EngineHost
    archive: ImageArchive | None
    progress: Callable[[str], None]

    async def run(self, running: int, *, new: bool = True) -> None:
        """Do all steps. `running`: the number of the release that runs; `new`: it has just become healthy.

        A failure is a progress line: the release runs.
        """
        try:
            self._let_go(running)
        except BoltsealError as error:
            self.progress(f"older releases are not removed: {error.message}")
        if self.archive is None:
            return
        try:
            added = await self._archive(self.archive)
        except BoltsealError as error:
            self.progress(f"its images are not archived, so a prune may remove them: {error.message}")
            return
        if new or added:
            size = f"{self.archive.size_bytes() / 2**20:.1f} MiB"
            self.progress(
                f"archived the images of the last releases{'' if self._local else ' on this machine'}: {size}"
            )

    @property
    def _local(self) -> bool:
        return self.host.engine.address.scheme == "unix"

    def _let_go(self, running: int) -> None:
        dropped = {hold_reason(each.project, each.number) for each in self.folder.prune(frozenset({running}))}
        for reason in dropped & {each.reason for each in self.host.kept.held(self.host.key)}:
            Keeper(self.host).let_go(reason)

    async def _archive(self, archive: ImageArchive) -> int:
        """Return how many images were added."""
        added, known = 0, archive.ids()
        good = [each for each in self.folder.all() if each.good][-ARCHIVED_RELEASES:]
        names = {each.image_id: each.image for release in good for each in release.services}
        for id_, name in names.items():
            if Digest.parse(id_) in known:
                continue
            with suppress(NoSuchImage):  # it was removed, and is not archived
                image = await self.host.engine.image(Digest.parse(id_))
                if not self._local:
                    self.progress(
                        f"archiving {name} on this machine: {image.size_bytes / 2**20:.1f} MiB from the engine"
                    )
                try:
                    added += await archive.add(self.host.engine, image.id)
                except BoltsealError:
                    if not marked([image]):
                        raise  # Docker's own store can't save files that were changed, and nothing starts them again
        archive.keep_only(archived_ids(self.folder))
        return added


def archives_images(directory: Path | None) -> bool:
    """Return whether the settings of a project say that its images are archived. `directory`: None if it is not known."""
    return directory is None or project_settings(directory).keep == "archive"


def archived_ids(folder: ReleaseFolder) -> frozenset[Digest]:
    """Return the IDs of the images that an engine's archive keeps: of the last healthy releases of all its projects."""
    good = [
        [each for each in ReleaseFolder(folder.root, name).all() if each.good][-ARCHIVED_RELEASES:]
        for name in projects(folder.root)
    ]
    return frozenset(Digest.parse(each.image_id) for found in good for release in found for each in release.services)
