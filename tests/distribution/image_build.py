"""Builds the container image on a base made of Debian packages, and runs it.

A `Storage` is a separate folder of containers, images and mounts; at its end nothing of it is mounted or kept.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import servers
from tests.distribution.builds import TIMEOUT_S, checked
from tests.docs.pages import ROOT
from tests.programs import program
from tests.real.tools import CommandResult, run

BASE = "localhost/debian-python"
HARDENED = ("--read-only", "--cap-drop", "all", "--security-opt=no-new-privileges", "--user", "10001:10001")
"""How packaging/compose.yaml and packaging/boltseal.container run the image."""


@dataclass(frozen=True, slots=True)
class Storage:
    """The folder in which buildah and podman keep images. `variables`: the environment for both."""

    folder: Path
    variables: dict[str, str]

    def podman(self, *arguments: str) -> CommandResult:
        """Run podman with this storage; containers run in runc, since crun needs newer cgroups than some machines have."""
        engine = (
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
            "--runtime",
            "runc",
            "--log-level",
            "error",
        )
        return run("podman", "--tmpdir", f"{self.folder}/tmp", *engine, *arguments, env=self.variables)


@contextmanager
def storage(folder: Path) -> Iterator[Storage]:
    """A storage in an empty folder."""
    files = {
        "storage.conf": f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/root"\nrunroot = "{folder}/run"\n',
        # the limits of some machines are lower than the defaults, and their cgroups cannot limit anything
        "containers.conf": '[containers]\npids_limit = 0\ndefault_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    variables = {
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF_OVERRIDE": str(folder / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }
    here = Storage(folder, variables)
    try:
        yield here
    finally:
        here.podman("rm", "--all", "--force", "--time", "0", "--volumes")
        here.podman("rmi", "--all", "--force")
        servers.unmounted(folder)


def make_base(here: Storage) -> str:
    """Build the base image from packages of this machine's Debian; return its version of Python."""
    release = dict(re.findall(r"^(\w+)=(.*)$", Path("/etc/os-release").read_text(), re.MULTILINE))
    sources = [str(path) for path in sorted(Path("/etc/apt/sources.list.d").glob("debian.sources"))]
    context = here.folder / "base"
    context.mkdir()
    tree = context / "base.tar"
    small = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "info", "locale", "man")]
    packages = ("--variant=minbase", "--include=python3,python3-venv", release["VERSION_CODENAME"])
    checked([program("mmdebstrap"), "--mode=root", "--quiet", *small, *packages, str(tree), *sources])
    (context / "Containerfile").write_text("FROM scratch\nADD base.tar /\n", encoding="utf-8")
    checked([program("buildah"), "build", "--quiet", "--timestamp", "0", "-t", BASE, str(context)], here.variables)
    tree.unlink()
    version = here.podman("run", "--rm", "--network", "none", BASE, "python3", "-c", "import sys; print(sys.version)")
    return ".".join(version.checked().split(".")[:2])


@dataclass(frozen=True, slots=True)
class Layout:
    """The OCI layout that scripts/build-image writes."""

    folder: Path
    version: str
    digest: str

    @property
    def source(self) -> str:
        """Return the image's reference for oras."""
        return f"{self.folder}:{self.version}"

    def referrers(self) -> dict[str, str]:
        """Return the digest of each referrer by its artifact type, as oras discovers them."""
        discovered = checked([program("oras"), "discover", "--oci-layout", "--format", "json", self.source])
        return {each["artifactType"]: each["digest"] for each in json.loads(discovered)["manifests"]}


def build_image(here: Storage, out: Path, revision: str, python: str, wheels: Path, *, root: Path = ROOT) -> Layout:
    """Build the image of a commit in a checkout, with these wheels in place of a package index."""
    pip = here.folder / "pip.conf"
    pip.write_text("[global]\nno-index = true\nfind-links = /mnt/wheels\n", encoding="utf-8")
    done = subprocess.run(
        [
            *(root / "scripts/build-image", out, "--build-arg", f"BASE={BASE}"),
            *("--network", "none", "--secret", f"id=pip.conf,src={pip}", "--volume", f"{wheels}:/mnt/wheels:ro"),
        ],
        env=os.environ | here.variables | {"REVISION": revision, "PYTHON": python},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    named = "org.opencontainers.image.ref.name"
    manifests = json.loads((out / "index.json").read_bytes())["manifests"]
    (entry,) = [each for each in manifests if named in each["annotations"]]
    assert done.stdout.strip() == entry["digest"]
    return Layout(out, entry["annotations"][named], entry["digest"])
