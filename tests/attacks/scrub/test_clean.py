"""Unmodified images of every builder, with everything that a tar may contain, are clean in every store.

A false alarm is a defect. Other checkers fail on folders without entries, hard links with other modes in their headers,
overlayfs marks in layers that were built and not unpacked, sparse files, and names that are not UTF-8.
"""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.changing_containers import changing_command, wait_until_changed
from tests.attacks.scrub.clean_layers import (
    LAYERS,
)
from tests.attacks.scrub.image import ACL, CAPABILITY, archive, base
from tests.attacks.scrub.stores import podman_on
from tests.programs import program
from tests.real.tools import CommandResult, run

pytestmark = [pytest.mark.real, pytest.mark.slow]


def reports(*roots: Path) -> list[ScrubReport]:
    """Return the reports of all images and containers, and of layers of a build cache as far as they have a digest."""
    found = scrub([store for root in roots for store in store_at(root)], ScrubRequest(), lambda *_: None)
    return [each for each in found if each.status is not ReportStatus.UNCHECKED]


def not_clean(*roots: Path, at_least: int = 1) -> list[ScrubReport]:
    """Return everything that is not clean, after checking that there is something to check."""
    found = reports(*roots)

    assert len(found) >= at_least
    return [each for each in found if each.status is not ReportStatus.HOLDS]


# ---- every kind of tar entry


def sparse_archive(folder: Path, version: str) -> list[bytes]:
    """Return a layer of sparse files, written by GNU tar."""
    made = folder / f"sparse{version}"
    made.mkdir()
    with (made / "holes").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"x" * 1000)
        file.truncate(9_000_000)
    (made / "plain").write_bytes(b"plain")
    tar = folder / f"sparse{version}.tar"
    subprocess.run(
        ["tar", "-S", "--format=pax", f"--sparse-version={version}", "-C", made, "-cf", tar, "holes", "plain"],
        check=True,
    )
    return [tar.read_bytes()]


@pytest.fixture(scope="session")
def archives(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return an archive of each of LAYERS, and of sparse files in each of GNU's formats."""
    folder = tmp_path_factory.mktemp("archives")
    layers = {**LAYERS, **{f"sparse-{v}": sparse_archive(folder, v) for v in ("0.0", "0.1", "1.0")}}
    for name, each in layers.items():
        archive(folder / f"{name}.tar", each, f"clean/{name}:1")
    return {name: folder / f"{name}.tar" for name in layers}


@dataclass(frozen=True)
class Daemon:
    """A running Docker daemon."""

    root: Path
    host: str

    def run(self, *argv: str | Path) -> CommandResult:
        return run("docker", "-H", self.host, *argv)


def docker_daemon(folder: Path, *, containerd_store: bool) -> Iterator[Daemon]:
    driver = "overlayfs" if containerd_store else "overlay2"
    with servers.dockerd(folder, containerd_store=containerd_store, driver=driver) as server:
        yield Daemon(folder / "data", f"unix://{server.address}")


@pytest.fixture(scope="module")
def classic(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A Docker daemon with its classic store."""
    yield from docker_daemon(tmp_path_factory.mktemp("classic"), containerd_store=False)


@pytest.fixture(scope="module")
def modern(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A Docker daemon with containerd's image store."""
    yield from docker_daemon(tmp_path_factory.mktemp("modern"), containerd_store=True)


@pytest.fixture(params=["classic", "modern"])
def daemon(request: pytest.FixtureRequest) -> Daemon:
    """Each of the Docker daemons."""
    found: Daemon = request.getfixturevalue(request.param)
    return found


def _add_attributes(folder: Path) -> None:
    """Create files with attributes and access control lists."""
    (folder / "folder").mkdir(parents=True)
    for name in ("mine", "list", "capability", "folder/file"):
        (folder / name).write_text(name)
    (folder / "list").chmod(0o755)
    os.setxattr(folder / "mine", "user.mine", b"1")
    os.setxattr(folder / "list", "system.posix_acl_access", ACL)
    os.setxattr(folder / "folder", "system.posix_acl_default", ACL)
    os.setxattr(folder / "capability", "security.capability", CAPABILITY.encode("latin-1"))


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """A build context with a shell, and steps that add, change, remove and link files."""
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "base.tar").write_bytes(base())
    (folder / "busybox").write_bytes(Path(program("busybox")).read_bytes())
    (folder / "busybox").chmod(0o755)
    names = folder / "names"
    for name in ("日本語", "größe", "語.txt", "n" * 120, "長" * 60, "フォルダ/名前", "長" * 50 + "/" + "長" * 50):
        (names / name).parent.mkdir(parents=True, exist_ok=True)
        (names / name).write_text(name)
    (names / "リンク").symlink_to("日本語")
    (names / "別名").hardlink_to(names / "日本語")
    _add_attributes(folder / "attributes")
    (folder / "Dockerfile").write_text(
        """\
FROM scratch
ADD base.tar /
COPY busybox /bin/busybox
RUN ["/bin/busybox", "--install", "/bin"]
RUN echo hi > /etc/new; rm /etc/gone; rm -r /opaque; mkdir /opaque; chmod 700 /bin/su
RUN true
RUN mkdir -p /srv/deep/er; ln /bin/tool /srv/tool; mv /usr/lib /usr/lib2; rm -r /usr/lib2/deep
COPY busybox /opaque/box
COPY names /data
COPY names/日本語 /
COPY attributes /attributes
RUN chown 5 /attributes/* ; touch /attributes/folder/new; mkdir /attributes/folder/deep; ln /attributes/mine /attributes/mine2
RUN ln /data/日本語 /data/名; ln -s 日本語 /data/語; mkdir /フォルダ; echo x > /フォルダ/名前
CMD ["sleep", "1000"]
"""
    )
    return folder


@pytest.mark.parametrize("name", [*LAYERS, "sparse-0.0", "sparse-0.1", "sparse-1.0"])
def test_layers_unpacked_by_docker_load_are_clean(daemon: Daemon, archives: dict[str, Path], name: str) -> None:
    """Layers of every kind that `docker load` unpacked have no findings."""
    daemon.run("load", "-i", archives[name]).checked()

    found = [each for each in reports(daemon.root) if any(f"clean/{name}:" in n for n in each.names)]

    assert [(each.differences, each.unknown) for each in found] == [((), ())]


@pytest.mark.parametrize("name", [*LAYERS, "sparse-0.0", "sparse-0.1", "sparse-1.0"])
def test_layers_unpacked_by_podman_load_are_clean(tmp_path: Path, archives: dict[str, Path], name: str) -> None:
    """Layers of every kind that `podman load` unpacked have no findings."""
    run(*podman_on(tmp_path / "root", tmp_path), "load", "-i", archives[name]).checked()

    (found,) = reports(tmp_path / "root")

    assert (found.differences, found.unknown) == ((), ())


@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["docker-build", "buildkit"])
def test_images_built_by_docker_are_clean(daemon: Daemon, context: Path, buildkit: str) -> None:
    """BuildKit keeps its build folders, with overlayfs marks, as layers; they have no findings."""
    run(
        *("docker", "-H", daemon.host, "build", "--network", "none", "-t", f"built:{buildkit}", context),
        env={"DOCKER_BUILDKIT": buildkit},
    ).checked()

    assert not_clean(daemon.root) == []


@pytest.mark.parametrize("step", ["chmod 711 /", "chmod 1777 /", "chown 5:6 /", "chmod 777 /"])
@pytest.mark.parametrize("buildkit", ["0", "1"], ids=["docker-build", "buildkit"])
def test_a_build_step_that_changes_the_root_folder_is_no_difference(
    daemon: Daemon, tmp_path: Path, buildkit: str, step: str
) -> None:
    """A build step that changes the root folder is no difference; Docker's own store has it in no tar, so what gives others
    rights is not checked there."""
    (tmp_path / "busybox").write_bytes(Path(program("busybox")).read_bytes())
    (tmp_path / "busybox").chmod(0o755)
    name = f"root-{buildkit}-{step.encode().hex()}"
    # Without a file of its own the step has the tar of another step in the same second, and Docker keeps one folder for both.
    commands = f"touch /{name}; /bin/busybox {step}", "touch /x"
    steps = [f'RUN ["/bin/busybox", "sh", "-c", "/bin/busybox {each}"]' for each in commands]
    (tmp_path / "Dockerfile").write_text("\n".join(("FROM scratch", "COPY busybox /bin/busybox", *steps)))
    tag = f"{name}:1"
    run(
        *("docker", "-H", daemon.host, "build", "--network", "none", "-t", tag, tmp_path),
        env={"DOCKER_BUILDKIT": buildkit},
    ).checked()

    (found,) = [each for each in reports(daemon.root) if any(name.endswith(tag) for name in each.names)]
    is_in_no_tar = step in ("chown 5:6 /", "chmod 777 /") and buildkit == "1" and (daemon.root / "overlay2").exists()

    assert found.differences == ()
    assert found.status is (ReportStatus.UNKNOWN if is_in_no_tar else ReportStatus.HOLDS), found.unknown


@pytest.mark.parametrize(
    ("first", "second", "unknown"),
    [("true", "echo", []), ("chmod 711 /", "chown 5:6 /", [1])],
)
def test_images_of_build_steps_with_equal_tars_are_no_difference(
    classic: Daemon, tmp_path: Path, first: str, second: str, unknown: list[int]
) -> None:
    """Docker knows one folder for two build steps with equal tars, and the second image is mounted on its own: both are checked."""
    (tmp_path / "busybox").write_bytes(Path(program("busybox")).read_bytes())
    (tmp_path / "busybox").chmod(0o755)
    names = [f"equal-{each.encode().hex()}-{number}-{tmp_path.name}:1" for number, each in enumerate((first, second))]
    for name, step in zip(names, (first, second), strict=True):
        each = ("/bin/busybox true", f"/bin/busybox {step}", f"/bin/busybox touch /{name}")
        steps = [f'RUN ["/bin/busybox", "sh", "-c", "{command}"]' for command in each]
        (tmp_path / "Dockerfile").write_text("\n".join(("FROM scratch", "COPY busybox /bin/busybox", *steps)))
        run(
            *("docker", "-H", classic.host, "build", "--network", "none", "-t", name, tmp_path),
            env={"DOCKER_BUILDKIT": "1"},
        ).checked()

    checked = reports(classic.root)
    found = [report for name in names for report in checked if any(each.endswith(name) for each in report.names)]
    layers = [json.loads(classic.run("image", "inspect", name).checked())[0]["RootFS"]["Layers"] for name in names]

    assert layers[0][:3] == layers[1][:3]
    assert [report.differences for report in found] == [(), ()]
    assert [number for number, report in enumerate(found) if report.status is ReportStatus.UNKNOWN] == unknown


def test_a_running_container_with_changes_is_clean(daemon: Daemon, context: Path) -> None:
    """The container's own layer, Docker's -init layer, and its process's view have no findings."""
    run(
        "docker", "-H", daemon.host, "build", "--network", "none", "-t", "running:1", context,
        env={"DOCKER_BUILDKIT": "1"},
    ).checked()  # fmt: skip
    do = "echo x > /etc/mine; rm /bin/tool; mkdir /new; mv /etc/passwd /etc/passwd2; rm -r /opaque; chmod 700 /srv"
    options = ("-d", "--network", "none", "-v", "/srv/volume")
    box = daemon.run("run", *options, "running:1", *changing_command(do)).checked().strip()
    wait_until_changed(lambda: daemon.run("logs", box).checked())
    stopped = daemon.run("create", "--network", "none", "running:1").checked().strip()

    found = [each for each in reports(daemon.root) if each.what == "container" and each.id in (box, stopped)]
    daemon.run("rm", "-f", box, stopped).checked()

    assert {(each.status, each.differences, each.unknown) for each in found} == {(ReportStatus.HOLDS, (), ())}
    assert sorted(bool(each.running) for each in found) == [False, True]
    assert {"etc/mine", "bin/tool"} <= {change.path for each in found for change in each.changed}


@pytest.mark.parametrize("tool", ["podman", "buildah"])
def test_images_built_by_podman_and_buildah_are_clean(tmp_path: Path, context: Path, tool: str) -> None:
    """Podman and Buildah keep their build folders as layers; they have no findings."""
    common = ("--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "run"), "--storage-driver", "overlay")
    extra = ("--cgroup-manager", "cgroupfs", "--events-backend", "file") if tool == "podman" else ()
    run(
        *(tool, *common, *extra, "build", "--isolation", "chroot", "--network", "host", "--layers"),
        *("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=4096:4096", "-t", "built:1"),
        context,
    ).checked()

    assert not_clean(tmp_path / "root") == []


@pytest.mark.parametrize("form", ["gzip", "zstd", "zstd:chunked"])
def test_compressed_layers_are_clean(modern: Daemon, archives: dict[str, Path], tmp_path: Path, form: str) -> None:
    """Compressed layers have no findings as blobs of a layout, in Podman's store, and unpacked by containerd."""
    layout, name = tmp_path / "layout", f"compressed:{form.replace(':', '-')}"
    compressed = ("--dest-compress-format", form)
    skopeo = ("skopeo", "--insecure-policy", "copy")
    run(*skopeo, *compressed, f"docker-archive:{archives['everything']}", f"oci:{layout}:{name}").checked()
    run(*skopeo, f"oci:{layout}:{name}", f"oci-archive:{tmp_path}/archive.tar:{name}").checked()
    modern.run("load", "-i", tmp_path / "archive.tar").checked()
    storage = f"containers-storage:[overlay@{tmp_path}/root+{tmp_path}/run]localhost/{name}"
    run(*skopeo, f"oci:{layout}:{name}", storage).checked()

    assert not_clean(layout, tmp_path / "archive.tar", tmp_path / "root", modern.root, at_least=4) == []


def test_images_of_umoci_are_clean(tmp_path: Path) -> None:
    """Images of umoci have no findings, as a layout whose layer was made from a folder and in Podman's store."""
    layout, bundle = tmp_path / "layout", tmp_path / "bundle"
    run("umoci", "init", "--layout", layout).checked()
    run("umoci", "new", "--image", f"{layout}:made").checked()
    run("umoci", "unpack", "--image", f"{layout}:made", bundle).checked()
    with tarfile.open(tmp_path / "base.tar", "w") as tar:
        tar.add(__file__, "srv/file")
    subprocess.run(["tar", "-C", bundle / "rootfs", "-xf", tmp_path / "base.tar"], check=True)
    (bundle / "rootfs/link").symlink_to("srv/file")
    (bundle / "rootfs/srv/日本語").write_bytes(b"a name that is not ASCII")
    run("umoci", "repack", "--image", f"{layout}:made", bundle).checked()
    storage = f"containers-storage:[overlay@{tmp_path}/root+{tmp_path}/run]localhost/made:1"
    run("skopeo", "--insecure-policy", "copy", f"oci:{layout}:made", storage).checked()

    assert not_clean(layout, tmp_path / "root", at_least=2) == []


def test_archives_of_docker_and_podman_save_are_clean(
    daemon: Daemon, archives: dict[str, Path], tmp_path: Path
) -> None:
    """Archives of `docker save` and `podman save` have no findings, with a Docker manifest list, an OCI index or both."""
    daemon.run("load", "-i", archives["everything"]).checked()
    daemon.run("save", "-o", tmp_path / "saved.tar", "clean/everything:1").checked()
    podman = podman_on(tmp_path / "root", tmp_path)
    run(*podman, "load", "-i", archives["everything"]).checked()
    run(*podman, "save", "-o", tmp_path / "podman.tar", "clean/everything:1").checked()
    run(*podman, "save", "--format", "oci-archive", "-o", tmp_path / "oci.tar", "clean/everything:1").checked()

    assert not_clean(*(tmp_path / f"{name}.tar" for name in ("saved", "podman", "oci")), at_least=3) == []
