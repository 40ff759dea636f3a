"""The tools with which users push and pull, each behind the same three methods, so that one suite runs on all.

A tool works on its own storage in a temporary folder and never on this machine's. Its output is returned completely,
as the user at the terminal reads it; `pull` starts from an empty storage.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.programs import program
from tests.real.layout import APP, app_in_layout, app_in_tar, app_tar, image_layout

TIMEOUT_S = 120
UNSEALED = "sealing memfd copy: Device or resource busy"
"""podman and buildah copy their own program into memory and seal the copy before they start it. The kernel refuses that while it
moves the copy's pages, which it does when memory is scarce; they do not try again."""
SEALINGS = 5


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code of a command, and everything that it wrote."""

    ok: bool
    text: str

    def checked(self) -> str:
        """Return the output of a command that must have succeeded."""
        assert self.ok, self.text
        return self.text


class Tool(Protocol):
    """A tool with which users push and pull images."""

    name: str

    def image(self, content: bytes) -> str:
        """Create an image whose one file has `content`; return the name by which `push` finds it."""

    def push(self, image: str, reference: str) -> CommandResult:
        """Push an image under a reference."""

    def pull(self, reference: str) -> bytes:
        """Pull without any local content, and return the content of the image's file."""


def run(
    *argv: str | Path,
    stdin: bytes = b"",
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout_s: float = TIMEOUT_S,
) -> CommandResult:
    """Run a command, with both its streams in the order in which it wrote them."""
    first = str(argv[0])
    for _ in range(SEALINGS):
        done = subprocess.run(
            [first if first.startswith("/") else program(first), *argv[1:]],
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            env=os.environ | dict(env or {}),
            cwd=cwd,
            check=False,
        )
        if UNSEALED.encode() not in done.stdout:
            break
    return CommandResult(done.returncode == 0, done.stdout.decode("utf-8", "replace"))


def output(*argv: str | Path) -> bytes:
    """Return what a command writes to its standard output."""
    return subprocess.run(
        [program(str(argv[0])), *argv[1:]], stdout=subprocess.PIPE, timeout=TIMEOUT_S, check=True
    ).stdout


class Docker:
    """docker with a separate daemon. `name`: whether it keeps images itself or in containerd's store."""

    def __init__(self, socket: str, name: str) -> None:
        self.name = name
        self.host = f"unix://{socket}"
        self._docker = ("docker", "-H", self.host)
        self._numbers = itertools.count(1)

    def image(self, content: bytes) -> str:
        image = f"made:{next(self._numbers)}"
        run(*self._docker, "import", "-", image, stdin=app_tar(content)).checked()
        return image

    def push(self, image: str, reference: str) -> CommandResult:
        run(*self._docker, "tag", image, reference).checked()
        return run(*self._docker, "push", reference)

    def pull(self, reference: str) -> bytes:
        self._forget()
        run(*self._docker, "pull", reference).checked()
        container = run(*self._docker, "create", reference, f"/{APP}").checked().strip()
        exported = output(*self._docker, "export", container)
        run(*self._docker, "rm", container).checked()
        return app_in_tar(exported)

    def run(self, *argv: str) -> CommandResult:
        """Run another command of the tool."""
        return run(*self._docker, *argv)

    def _forget(self) -> None:
        """Remove all images, whatever other tests left; those that others are built on last."""
        boxes = run(*self._docker, "ps", "--all", "--quiet").checked().split()
        if boxes:
            run(*self._docker, "rm", "--force", *boxes).checked()
        left: set[str] = set()
        while known := set(run(*self._docker, "image", "ls", "--all", "--quiet", "--no-trunc").checked().split()):
            result = run(*self._docker, "image", "rm", "--force", *sorted(known))
            assert known != left, result.text
            left = known


class Podman:
    """podman, with a storage that needs neither overlay mounts nor systemd."""

    name = "podman"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts = itertools.count(1)
        self._numbers = itertools.count(1)
        self._podman = self._host()

    def image(self, content: bytes) -> str:
        image = f"localhost/made:{next(self._numbers)}"
        run(*self._podman, "import", "-", image, stdin=app_tar(content)).checked()
        return image

    def push(self, image: str, reference: str) -> CommandResult:
        return run(*self._podman, "push", "--tls-verify=false", image, reference)

    def pull(self, reference: str) -> bytes:
        podman = self._host()
        run(*podman, "pull", "--tls-verify=false", reference).checked()
        container = output(*podman, "create", reference, f"/{APP}").decode().strip()
        return app_in_tar(output(*podman, "export", container))

    def run(self, *argv: str) -> CommandResult:
        """Run another command, on the storage in which images are built."""
        return run(*self.words(*argv))

    def words(self, *argv: str) -> tuple[str, ...]:
        """Return the command line of another command."""
        return *self._podman, *argv

    def _host(self) -> tuple[str, ...]:
        """Return podman on an empty storage."""
        at = self._folder / f"host{next(self._hosts)}"
        return (
            *("podman", "--root", f"{at}/root", "--runroot", f"{at}/run", "--tmpdir", f"{at}/tmp"),
            *("--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"),
            *("--log-level", "error"),
        )


class Buildah:
    """buildah, from scratch and without a running container."""

    name = "buildah"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hosts = itertools.count(1)
        self._numbers = itertools.count(1)
        self._buildah = self._host()

    def image(self, content: bytes) -> str:
        image = f"localhost/made:{next(self._numbers)}"
        source = self._folder / f"app{next(self._numbers)}"
        source.write_bytes(content)
        container = output(*self._buildah, "from", "scratch").decode().strip()
        run(*self._buildah, "copy", container, str(source), f"/{APP}").checked()
        run(*self._buildah, "commit", "--rm", container, image).checked()
        return image

    def push(self, image: str, reference: str) -> CommandResult:
        return run(*self._buildah, "push", "--tls-verify=false", image, f"docker://{reference}")

    def pull(self, reference: str) -> bytes:
        buildah = self._host()
        container = output(*buildah, "from", "--pull-always", "--tls-verify=false", reference).decode().strip()
        mounted = Path(output(*buildah, "mount", container).decode().strip())
        content = (mounted / APP).read_bytes()
        run(*buildah, "rm", container).checked()
        return content

    def run(self, *argv: str) -> CommandResult:
        """Run another command, on the storage in which images are built."""
        return run(*self._buildah, *argv)

    def _host(self) -> tuple[str, ...]:
        at = self._folder / f"host{next(self._hosts)}"
        return ("buildah", "--root", f"{at}/root", "--runroot", f"{at}/run", "--storage-driver", "vfs")


class Skopeo:
    """skopeo, which copies between a registry and image layouts on disk."""

    name = "skopeo"

    def __init__(self, folder: Path) -> None:
        self._folders = _numbered(folder)

    def image(self, content: bytes) -> str:
        return image_layout(next(self._folders), content).source

    def push(self, image: str, reference: str) -> CommandResult:
        return run("skopeo", "--insecure-policy", "copy", "--dest-tls-verify=false", image, f"docker://{reference}")

    def pull(self, reference: str) -> bytes:
        folder = next(self._folders)
        run(
            *("skopeo", "--insecure-policy", "copy", "--src-tls-verify=false"),
            *(f"docker://{reference}", f"oci:{folder}:app"),
        ).checked()
        return app_in_layout(folder)


class Oras:
    """oras, which pushes files as artifacts."""

    name = "oras"

    def __init__(self, folder: Path) -> None:
        self._folders = _numbered(folder)

    def image(self, content: bytes) -> str:
        folder = next(self._folders)
        (folder / APP).write_bytes(content)
        return str(folder)

    def push(self, image: str, reference: str) -> CommandResult:
        return run(
            *("oras", "push", "--plain-http", "--artifact-type", "application/vnd.example.app"),
            *("--annotation", "org.opencontainers.image.created=2026-11-24T00:00:00Z"),
            *(reference, f"{APP}:application/octet-stream"),
            cwd=Path(image),
        )

    def pull(self, reference: str) -> bytes:
        folder = next(self._folders)
        run("oras", "pull", "--plain-http", "--output", folder, reference).checked()
        return (folder / APP).read_bytes()


class Ctr:
    """ctr, containerd's own tool, whose push code BuildKit and Kubernetes nodes share."""

    name = "ctr"

    def __init__(self, socket: str, folder: Path) -> None:
        self._ctr = ("ctr", "--address", socket)
        self._images = (*self._ctr, "images")
        self._folders = _numbered(folder)
        self._numbers = itertools.count(1)

    def image(self, content: bytes) -> str:
        image = f"example.com/made{next(self._numbers)}"
        folder = next(self._folders)
        image_layout(folder, content)
        archive = folder.with_suffix(".tar")
        with tarfile.open(archive, "w") as tar:
            tar.add(folder, arcname="")
        run(*self._images, "import", "--no-unpack", "--base-name", image, archive).checked()
        return f"{image}:app"

    def push(self, image: str, reference: str) -> CommandResult:
        run(*self._images, "tag", "--force", image, reference).checked()
        return run(*self._images, "push", "--plain-http", reference)

    def pull(self, reference: str) -> bytes:
        known = run(*self._images, "ls", "--quiet").checked().split()
        if known:
            run(*self._images, "rm", "--sync", *known).checked()
        run(*self._images, "pull", "--plain-http", "--snapshotter", "native", reference).checked()
        archive = next(self._folders) / "image.tar"
        run(*self._images, "export", archive, reference).checked()
        with tarfile.open(archive) as tar:
            tar.extractall(archive.parent, filter="data")
        return app_in_layout(archive.parent)

    def words(self) -> tuple[str, ...]:
        """How the command line of another verb begins."""
        return self._ctr


def _numbered(folder: Path) -> Iterator[Path]:
    """Yield new folders, one after the other."""
    for number in itertools.count(1):
        made = folder / str(number)
        made.mkdir(parents=True)
        yield made


@dataclass(frozen=True)
class Cosign:
    """cosign with a key pair in `folder`, and no transparency log."""

    folder: Path

    def sign(self, reference: str, by: str, *more: str) -> CommandResult:
        """Sign an image; `by` is an annotation that distinguishes signatures."""
        return self._run(
            *("sign", "--yes", "--key", f"{self.folder}/cosign.key", "--tlog-upload=false", "--allow-http-registry"),
            *("--allow-insecure-registry", "--annotations", f"by={by}", *more, reference),
        )

    def verify(self, reference: str, *more: str) -> set[str]:
        """Return the signers that the public key verifies."""
        printed = self._run(
            *("verify", "--key", f"{self.folder}/cosign.pub", "--insecure-ignore-tlog=true", "--allow-http-registry"),
            *("--allow-insecure-registry", "--output", "json", *more, reference),
        ).checked()
        signatures = json.loads(printed[printed.index("\n[{") :])
        return {signature["optional"]["by"] for signature in signatures}

    def attest(self, reference: str, statement: object) -> CommandResult:
        """Attach a signed statement."""
        predicate = self.folder / "predicate.json"
        predicate.write_text(json.dumps(statement))
        return self.attest_file(reference, predicate, "custom")

    def attest_file(self, reference: str, predicate: Path, kind: str, *more: str) -> CommandResult:
        """Attach a signed predicate of a type."""
        return self._run(
            *("attest", "--yes", "--key", f"{self.folder}/cosign.key", "--tlog-upload=false", "--allow-http-registry"),
            *("--allow-insecure-registry", "--type", kind, "--predicate", str(predicate), *more, reference),
        )

    def attestations(self, reference: str) -> int:
        """Return how many statements about the image are verified."""
        printed = self._run(
            *("verify-attestation", "--key", f"{self.folder}/cosign.pub", "--insecure-ignore-tlog=true"),
            *("--allow-http-registry", "--allow-insecure-registry", "--type", "custom", reference),
        ).checked()
        return sum(line.startswith("{") for line in printed.splitlines())

    def clean(self, reference: str) -> CommandResult:
        """Try to remove the signatures of an image."""
        return self._run("clean", "--force", "--allow-http-registry", "--allow-insecure-registry", reference)

    def _run(self, *argv: str) -> CommandResult:
        environment = {"COSIGN_PASSWORD": "", "COSIGN_EXPERIMENTAL": "1"}
        return run("cosign", *argv, env=environment, cwd=self.folder)


def signature_tag(image: str) -> str:
    """Return the tag under which cosign keeps the signatures of an image."""
    return image.partition("@")[2].replace(":", "-") + ".sig"
