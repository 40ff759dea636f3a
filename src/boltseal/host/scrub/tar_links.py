"""Follows the symbolic links of a layer's tar, as engines do for entries whose path has one.

`lib -> usr/lib` and then `lib/libc.so` writes `usr/lib/libc.so`: builders that join packages write such layers. Only links
that the tar has so far count, and never those on disk.
"""

from __future__ import annotations

from typing import Final

from boltseal.host.scrub.tar_header import MAX_NAME_BYTES, TarMalformed

MAX_FOLLOWED: Final = 255
"""The limit of links in one path, which is containerd's; the kernel follows 40."""


class TarLinks:
    """The symbolic links of the entries so far, by path."""

    def __init__(self) -> None:
        self.targets: dict[bytes, bytes] = {}

    def resolved(self, folder: bytes) -> bytes:
        """Return the path of a folder without links.

        Raises: TarMalformed: if there are too many, as in a cycle.
        """
        done: list[bytes] = []
        todo = folder.split(b"/")[::-1]
        followed = 0
        while todo:
            part = todo.pop()
            if part == b"..":
                done[-1:] = []
            elif part not in (b"", b"."):
                done.append(part)
                target = self.targets.get(b"/".join(done))
                if target is not None:
                    followed += 1
                    del done[0 if target.startswith(b"/") else -1 :]
                    todo += target.split(b"/")[::-1]
            if followed > MAX_FOLLOWED or len(todo) > MAX_NAME_BYTES:
                raise TarMalformed(f"the path of an entry has more than {MAX_FOLLOWED} symbolic links")
        return b"/".join(done)
