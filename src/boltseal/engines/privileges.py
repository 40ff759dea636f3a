"""What this process may see of overlayfs's marks."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_SYS_ADMIN: Final = 21


def sees_marks(owner: int, proc: Path = Path("/proc")) -> bool:
    """Whether marks on a layer of this owner show themselves: `trusted.overlay.*` do so only to CAP_SYS_ADMIN.

    Without it they are not refused but left out, so that nobody would notice. In the store of a plain user overlayfs reads
    `user.overlay.*` instead, and the others mean nothing.
    """
    if os.geteuid() != 0 and owner != 0:
        return True
    found = re.search(
        r"^CapEff:\s+([0-9a-f]+)$", (proc / "self/status").read_text(encoding="ascii", errors="replace"), re.MULTILINE
    )
    return found is not None and bool(int(found[1], 16) >> _SYS_ADMIN & 1)
