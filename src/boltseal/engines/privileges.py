"""Whether this process can see overlayfs's extended attributes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_SYS_ADMIN: Final = 21


def sees_marks(owner: int, proc: Path = Path("/proc")) -> bool:
    """Return whether overlayfs attributes on a layer of this owner are visible: `trusted.overlay.*` needs
    CAP_SYS_ADMIN.

    Without it the kernel hides these attributes silently, instead of refusing. In a rootless store overlayfs uses
    `user.overlay.*` instead, and the others have no effect.
    """
    if os.geteuid() != 0 and owner != 0:
        return True
    found = re.search(
        r"^CapEff:\s+([0-9a-f]+)$", (proc / "self/status").read_text(encoding="ascii", errors="replace"), re.MULTILINE
    )
    return found is not None and bool(int(found[1], 16) >> _SYS_ADMIN & 1)
