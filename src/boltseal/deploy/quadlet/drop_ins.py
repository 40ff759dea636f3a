"""Writes the drop-in files of a release, and replaces those of all units at once.

    UNITS                          where Podman looks for units, such as /etc/containers/systemd
      boltseal-PROJECT             a link to the folder of the release that runs
    UNITS/../boltseal/PROJECT/
      N-XXXXXXXX/                  of release N; written once, never changed
        web.container.d/99-boltseal.conf    [Container] and Image=, nothing else

Podman reads folders in its folders, also linked ones. The link is replaced by one rename, so that after a crash at any moment all units
have the drop-in files of one release. The folders are outside of the searched ones, so that Podman sees none but the linked one.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boltseal.deploy.release_store import ReleasesFull, ReleasesUnusable
from boltseal.files.atomic_files import Disk, is_no_space, make_folders, write_file

FILE_NAME: Final = "99-boltseal.conf"
_MODE: Final = 0o644


def drop_in_text(unit: str, image: str) -> str:
    """Return the drop-in file that sets the image of a `.container` or `.image` unit."""
    section = "Image" if unit.endswith(".image") else "Container"
    return f"[{section}]\nImage={image}\n"


def write_drop_ins(folder: Path, texts: Mapping[str, str], disk: Disk | None = None) -> None:
    """Write drop-in files of units into a folder. OSError."""
    disk = disk or Disk()
    for unit, text in texts.items():
        make_folders(disk, folder / f"{unit}.d")
        write_file(disk, folder / f"{unit}.d" / FILE_NAME, text.encode(), _MODE, whatever_umask=True)


@dataclass(frozen=True, slots=True)
class DropIns:
    """The drop-in files of a project. `units`: Podman's folder in which the link is."""

    units: Path
    project: str
    disk: Disk = field(default_factory=Disk)

    @property
    def link(self) -> Path:
        """The link that Podman follows."""
        return self.units / f"boltseal-{self.project}"

    @property
    def folder(self) -> Path:
        """The folder of the releases' folders."""
        return Path(os.path.realpath(self.units)).parent / "boltseal" / self.project

    def current(self) -> Mapping[str, str]:
        """Return the drop-in files that Podman reads now, by unit. Raises: ReleasesUnusable."""
        try:
            paths = sorted(self.link.glob(f"*.d/{FILE_NAME}"))
            return {each.parent.name.removesuffix(".d"): each.read_text(encoding="utf-8") for each in paths}
        except (OSError, UnicodeDecodeError) as error:
            raise ReleasesUnusable(f"the drop-in files of {self.link} can't be read: {error}") from error

    def check(self) -> None:
        """Check that the name of the link is free or boltseal's. Raises: ReleasesUnusable."""
        if os.path.lexists(self.link) and not self._is_ours():
            raise ReleasesUnusable(
                f"{self.link} is not boltseal's (expected a link into {self.folder}); nothing was changed; move it away, or name "
                "another project by --project-name"
            )

    def _is_ours(self) -> bool:
        return self.link.is_symlink() and self.link.readlink().parent == self.folder

    def replace(self, number: int, texts: Mapping[str, str]) -> None:
        """Make these the project's drop-in files, all at once, durably; or leave the former ones.

        Raises: ReleasesFull, ReleasesUnusable.
        """
        self.check()
        name = f"{number}-{os.urandom(4).hex()}"
        try:
            make_folders(self.disk, self.folder)
            make_folders(self.disk, self.units)
            write_drop_ins(self.folder / name, texts, self.disk)
            (self.folder / name).mkdir(exist_ok=True)  # a release may set no image
            self.disk.sync_folder(str(self.folder / name))
            self.disk.sync_folder(str(self.folder))
            beside = self.folder / f"{name}.link"
            beside.symlink_to(self.folder / name)
            self.disk.rename(str(beside), str(self.link))
            self.disk.sync_folder(str(self.units))
        except OSError as error:
            raise self._failed(error) from error
        self.remove_others()

    def remove(self) -> None:
        """Remove the link, so that units are as their own files say. Raises: ReleasesUnusable."""
        self.check()
        try:
            if self.link.is_symlink():
                self.disk.unlink(str(self.link))
                self.disk.sync_folder(str(self.units))
        except OSError as error:
            raise self._failed(error) from error

    def remove_others(self) -> None:
        """Remove what other releases and killed processes left. A failure leaves it to the next release."""
        kept = self.link.readlink().name if self.link.is_symlink() else ""
        for each in self.folder.iterdir() if self.folder.is_dir() else ():
            if each.name == kept:
                continue
            if each.is_symlink():
                each.unlink(missing_ok=True)
            else:
                shutil.rmtree(each, ignore_errors=True)

    def _failed(self, error: OSError) -> ReleasesFull | ReleasesUnusable:
        kind = ReleasesFull if is_no_space(error) else ReleasesUnusable
        return kind(
            f"the drop-in files in {self.folder}, linked from {self.link}, could not be written: {error.strerror}"
        )
