"""The external programs that tests and benchmarks start, and the Debian package of each.

A missing program is a failure that says how to install it, never a skip: with skips, the whole suite would pass on a
machine without any of the programs.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

#: Program -> its Debian package. `scripts/test-packages` installs them.
PACKAGES = {
    "bsdtar": "libarchive-tools",
    "buildah": "buildah",
    "busybox": "busybox-static",
    "caddy": "caddy",
    "containerd": "containerd",
    "cosign": "cosign",
    "ctr": "containerd",
    "curl": "curl",
    "docker": "docker-cli",
    "docker-compose": "docker-compose",
    "dockerd": "docker.io",
    "git": "git",
    "go": "golang-go",
    "jq": "jq",
    "kubectl": "kubernetes-client",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "oras": "oras",
    "docker-buildx": "docker-buildx",
    "pgbouncer": "pgbouncer",
    "podman": "podman",
    "radosgw": "radosgw",
    "radosgw-admin": "ceph-common",
    "skopeo": "skopeo",
    "setpriv": "util-linux",
    "tar": "tar",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "promtool": "prometheus",
    "umoci": "umoci",
    "systemd-analyze": "systemd",
}

#: Programs that only `make bench` starts, with their Debian packages.
BENCH_PACKAGES = {
    "docker-registry": "docker-registry",
    "nginx": "nginx-light",
    "skopeo": "skopeo",
    "taskset": "util-linux",
    "wrk": "wrk",
}

#: Programs of these that are there before `scripts/test-packages` runs, so that a test of `make check` can start them, as it can any
#: that is part of every Debian.
INSTALLED_BEFORE = ("git", "setpriv", "tar")

_installed: ContextVar[bool] = ContextVar("installed", default=True)


class ProgramMissing(RuntimeError):
    """A required program is not installed."""


@contextmanager
def packages_installed(installed: bool) -> Iterator[None]:
    """Let `program` refuse what `scripts/test-packages` installs, also where it is installed, unless `installed`."""
    token = _installed.set(installed)
    try:
        yield
    finally:
        _installed.reset(token)


def program(name: str, packages: Mapping[str, str] = PACKAGES | BENCH_PACKAGES) -> str:
    """Return the path of a program. `packages`: the Debian package of each program.

    Raises:
        ProgramMissing: it is not installed; the message is the command that installs it. Or: the running test belongs to
            `make check`, which installs no packages.
    """
    if not _installed.get() and name in PACKAGES | BENCH_PACKAGES and name not in INSTALLED_BEFORE:
        raise ProgramMissing(f"{name}: make check runs this test and installs nothing: mark the test `real`")
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise ProgramMissing(f"{name} is not installed: apt-get install --no-install-recommends {packages[name]}")
    return path


def without_privileges() -> list[str]:
    """Return the command prefix that makes permissions effective, also where root runs the tests."""
    return [] if os.geteuid() else [program("setpriv"), "--bounding-set=-dac_override,-dac_read_search"]
