"""How engines differ when they unpack the same tar."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final


@dataclass(frozen=True, slots=True)
class UnpackingRules:
    """What one engine does with the entries of a layer.

    `trusted`: it sets attributes whose name begins with `trusted.`. `root_entry`: an entry `/` sets owner, mode and attributes
    of the layer's own folder, which an entry `./` does not. `marks`: it writes whiteouts and opaque marks, also where there
    is no lower layer. `keeps_selinux`: it sets `security.selinux`. `acl_last`: an access control list is set after the mode,
    and so changes it. `built`: the folder is that of a build container, whose tar leaves out most attributes.
    """

    trusted: bool = True
    root_entry: bool = True
    marks: bool = True
    keeps_selinux: bool = True
    acl_last: bool = False
    built: bool = False

    def sets(self, name: bytes) -> bool:
        """Return whether the engine sets this attribute of an entry."""
        if name.startswith(b"trusted."):
            return self.trusted
        return self.keeps_selinux or name != b"security.selinux"

    def without_root(self) -> UnpackingRules:
        """Return the rules of an engine that a user without root runs: only root can set `trusted.*`."""
        return replace(self, trusted=False)


DOCKER: Final = UnpackingRules()
DOCKER_BUILT: Final = UnpackingRules(built=True)
"""Layers that BuildKit built in Docker's classic store."""
PODMAN: Final = UnpackingRules(keeps_selinux=False, acl_last=True)
CONTAINERD: Final = UnpackingRules(trusted=False, root_entry=False)
CONTAINERD_LOWEST: Final = UnpackingRules(trusted=False, root_entry=False, marks=False)
"""The lowest layer, which containerd unpacks into a plain folder: a whiteout removes what is there, as in no image."""
