"""Other ways in which engines store images: rootless, with mapped user ids, or with other drivers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at, usual_stores
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive, base, middle, top
from tests.attacks.scrub.odd_layers import ODD, REFUSED
from tests.attacks.scrub.stores import podman_on
from tests.attacks.scrub.users import FIRST, NAME, UID, Disk, disk, given_to_others, ids_given, user_namespaces_or_skip
from tests.cli import program as verb
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.slow]

PODMAN = ("podman", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--log-level", "error")


def reports(root: Path) -> list[ScrubReport]:
    return scrub(store_at(root), ScrubRequest(), lambda *_: None)


def differences_in(root: Path) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for report in reports(root) for each in report.differences}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An archive of the image with every kind of entry."""
    archive(tmp_path / "image.tar", [base(), middle(), top()])
    (tmp_path / "image.tar").chmod(0o644)
    return tmp_path / "image.tar"


@pytest.fixture
def _user_namespaces() -> None:
    user_namespaces_or_skip()


# ---- without root


@pytest.fixture
def rootless(empty_home: None, image: Path, tmp_path: Path) -> Iterator[Disk]:
    """A disk with the Podman store of a user who has loaded the image."""
    made = disk(tmp_path / "disk")
    subprocess.run([*made.as_user(), *PODMAN, "load", "-q", "-i", image], check=True, stdout=subprocess.DEVNULL)
    yield made
    made.ended()
    servers.unmounted(tmp_path)


def storage(of: Disk) -> Path:
    return of.home / ".local/share/containers/storage"


def test_a_rootless_store_is_clean(rootless: Disk) -> None:
    """A rootless store, with ids of /etc/subuid and without device nodes, which the user cannot create, has no
    findings."""
    (found,) = reports(storage(rootless))

    assert (found.status, found.differences, found.unknown) == (ReportStatus.HOLDS, (), ())
    assert (found.layers, found.entries) == (3, 27)


@pytest.mark.slow
def test_odd_layers_are_clean_in_a_rootless_store(empty_home: None, tmp_path: Path) -> None:
    """In a rootless store, where the kernel maps ids in access control lists and refuses `trusted.*`, no odd layer has a
    finding."""
    made = disk(tmp_path / "disk")
    refused: dict[str, str] = {}
    for name, layers in ODD.items():
        archive(tmp_path / "image.tar", layers, f"corpus/{name}:1")
        (tmp_path / "image.tar").chmod(0o644)
        done = run(*made.as_user(), *PODMAN, "load", "-q", "-i", tmp_path / "image.tar")
        if not done.ok:
            refused[name] = done.text
    found = {each.names: (each.differences, each.unknown) for each in reports(storage(made))}
    made.ended()
    servers.unmounted(tmp_path)

    expected = REFUSED["podman"] - {"pipe-attribute", "link-attribute"}
    assert refused.keys() == expected | {"owners", "owners-negative", "numbers", "hard-to-devices"}, refused
    assert found == {(f"localhost/corpus/{name}:1",): ((), ()) for name in ODD.keys() - refused.keys()}


def test_stores_of_users_are_found_on_a_mounted_disk_and_on_this_host(rootless: Disk) -> None:
    """Rootless stores are found in each user's home folder, on a mounted disk and on this host."""
    assert [each.root for each in store_at(rootless.root)] == [storage(rootless)]
    assert storage(rootless) in [each.root for each in usual_stores([rootless.home])]


@pytest.mark.parametrize(
    ("path", "owner"), [("etc/passwd", 0), ("etc/passwd", FIRST), ("usr/lib/deep/file", UID)], ids=str
)
def test_a_changed_owner_in_a_rootless_store_differs(rootless: Disk, path: str, owner: int) -> None:
    """In a rootless store, an owner changed to the host's root or to another of the user's ids is a difference."""
    layer = next(each for each in (storage(rootless) / "overlay").glob("*/diff") if (each / "bin/tool").exists())
    os.chown(layer / path, owner, -1)

    assert (DifferenceKind.OWNER, path) in differences_in(storage(rootless))


def test_a_setuid_bit_in_a_rootless_store_differs(rootless: Disk) -> None:
    """In a rootless store everything except owners is compared as in root's store."""
    layer = next(each for each in (storage(rootless) / "overlay").glob("*/diff") if (each / "bin/tool").exists())
    (layer / "bin/tool").chmod(0o4755)

    assert differences_in(storage(rootless)) == {(DifferenceKind.MODE, "bin/tool")}


def test_unknown_ids_could_not_be_checked(rootless: Disk) -> None:
    """A store whose id map is unknown could not be checked: neither clean nor different."""
    (rootless.root / "etc/subuid").write_text("")

    (found,) = reports(storage(rootless))

    assert (found.status, found.differences) == (ReportStatus.UNKNOWN, ())
    assert "etc/subuid" in found.unknown[0]


@pytest.mark.parametrize(
    ("how", "status"),
    [
        ("keep-id", ReportStatus.HOLDS),
        ("keep-id:uid=1000,gid=1000", ReportStatus.UNKNOWN),
        ("nomap", ReportStatus.UNKNOWN),
    ],
)
def test_a_copy_for_a_user_who_keeps_the_own_id(rootless: Disk, how: str, status: ReportStatus) -> None:
    """A store with the user's usual id map is checked; any other map is known only from the store itself."""
    create = ("create", "--userns", how, "--network", "none", "shop/app:1.4.2")
    subprocess.run([*rootless.as_user(), *PODMAN, *create], check=True, stdout=subprocess.DEVNULL)
    found = reports(storage(rootless))
    (copy,) = (storage(rootless) / "overlay").glob("*/diff1")
    os.chown(copy / "bin/tool", UID, -1)

    changed = differences_in(storage(rootless))

    assert [(each.what, each.status, each.differences) for each in found] == [
        ("image", status, ()),
        ("container", ReportStatus.HOLDS, ()),
    ]
    assert changed == {(DifferenceKind.OWNER, str((copy / "bin/tool").relative_to(storage(rootless))))}


@pytest.mark.usefixtures("empty_home")
@pytest.mark.parametrize(("count", "status"), [(500, ReportStatus.HOLDS), (0, ReportStatus.UNKNOWN)])
def test_files_with_unmapped_owners_are_no_difference(
    image: Path, tmp_path: Path, count: int, status: ReportStatus
) -> None:
    """With `ignore_chown_errors` such files keep the unpacking user as owner."""
    made = disk(tmp_path / "disk")
    for name in ("subuid", "subgid"):
        (made.root / "etc" / name).write_text(f"{NAME}:{FIRST}:{count}\n" if count else "")
    options = ("--storage-driver", "overlay", "--storage-opt", "overlay.ignore_chown_errors=true")
    done = subprocess.run(
        [*made.as_user(), *PODMAN, *options, "load", "-q", "-i", image], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    (clean,) = reports(storage(made))
    layer = next(each for each in (storage(made) / "overlay").glob("*/diff") if (each / "bin/tool").exists())
    os.chown(layer / "usr/lib/deep/file", FIRST, -1)
    found = differences_in(storage(made))
    made.ended()
    servers.unmounted(tmp_path)

    assert (clean.status, clean.differences) == (status, ())
    assert ((DifferenceKind.OWNER, "usr/lib/deep/file") in found) is (status is ReportStatus.HOLDS)


# ---- Docker in a user namespace


@pytest.fixture
def remapped(empty_home: None, image: Path, tmp_path: Path) -> Path:
    """The root of a Docker daemon with `userns-remap`, with the image and a container of it."""
    made = disk(tmp_path / "d")
    engine = tmp_path / "e"
    more = (f"--userns-remap={NAME}",)
    with servers.dockerd(engine, driver="overlay2", more=more, before=made.as_root()) as server:
        docker = ("docker", "-H", f"unix://{server.address}")
        run(*docker, "load", "-i", image).checked()
        run(*docker, "create", "--network", "none", "shop/app:1.4.2").checked()
    return engine / "data"


def test_a_docker_in_a_user_namespace_is_clean_and_a_foreign_owner_is_found(remapped: Path) -> None:
    """In a `userns-remap` store, named after the ids of the mapped root, a clean copy has no findings and a foreign
    owner has."""
    (store,) = [each.root for each in store_at(remapped)]
    clean = [(each.what, each.status, each.differences) for each in reports(remapped)]
    layer = next(each for each in (store / "overlay2").glob("*/diff") if (each / "bin/tool").exists())
    os.chown(layer / "bin/tool", 0, 0)

    assert store.name == f"{FIRST}.{FIRST}"
    assert clean == [("image", ReportStatus.HOLDS, ()), ("container", ReportStatus.HOLDS, ())]
    assert (DifferenceKind.OWNER, "bin/tool") in differences_in(remapped)


# ---- other drivers


@pytest.mark.parametrize(
    ("folder", "driver"), [("image/btrfs/imagedb", "btrfs"), ("zfs-images", "zfs")], ids=["docker", "podman"]
)
def test_another_driver_could_not_be_checked(tmp_path: Path, folder: str, driver: str) -> None:
    """Images of a storage driver that boltseal does not know are reported as not checked: never as clean or "no store"."""
    (tmp_path / folder).mkdir(parents=True)

    done = verb.call("scrub", "--root", tmp_path)

    assert done.code == 3
    assert "could not check" in done.out
    assert f"storage driver {driver}" in done.out


def test_with_another_snapshotter_only_the_blobs_are_verified(
    image: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Layers unpacked by containerd's `native` snapshotter are reported as not checked; blobs are verified."""
    folder = tmp_path_factory.mktemp("n")
    run(
        "skopeo", "--insecure-policy", "copy", f"docker-archive:{image}", f"oci-archive:{folder}/oci.tar:a/b:1"
    ).checked()
    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address)
        run(*ctr, "images", "import", "--snapshotter", "native", folder / "oci.tar").checked()
        name = run(*ctr, "images", "list", "--quiet").checked().split()[0]
        run(*ctr, "containers", "create", "--snapshotter", "native", name, "box").checked()

    done = verb.call("scrub", "--root", folder / "engine/root")

    assert done.code == 3
    assert [line.split(":")[0] for line in done.out.splitlines()] == ["could not check", "could not check"]
    assert done.out.count("snapshotter native") == 2
    assert "container box" in done.out


# ---- containers of containerd itself


def test_a_ctr_container_is_checked_through_its_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A layer that was swapped only for the start of a ctr container is found through its process."""
    folder = tmp_path_factory.mktemp("c")
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    box.add("bin/sleep", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "image.tar", [base(), box.done()], "shop/box:1", ["/bin/sleep", "1000"])
    run(
        "skopeo",
        "--insecure-policy",
        "copy",
        f"docker-archive:{folder}/image.tar",
        f"oci-archive:{folder}/oci.tar:a/b:1",
    ).checked()
    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address)
        run(*ctr, "images", "import", "--snapshotter", "overlayfs", folder / "oci.tar").checked()
        name = run(*ctr, "images", "list", "--quiet").checked().split()[0]
        start = (*ctr, "run", "--detach", "--cpu-shares", "0", "--snapshotter", "overlayfs", name)
        run(*start, "box1").checked()
        try:
            (clean,) = [each for each in reports(folder / "engine/root") if each.what == "container"]
        finally:
            stopped(ctr, "box1")
        layer, evil = swapped_for_a_changed_copy(folder / "engine/root")
        run(*start, "box2").checked()
        try:
            layer.rename(evil)
            layer.with_name("aside").rename(layer)
            (swapped,) = [each for each in reports(folder / "engine/root") if each.id == "box2"]
        finally:
            stopped(ctr, "box2")

    assert (clean.status, clean.differences, clean.unknown) == (ReportStatus.HOLDS, (), ())
    assert clean.running
    assert {(each.kind, each.path) for each in swapped.differences} == {(DifferenceKind.RUNNING, "etc/gone")}


def test_a_copy_that_containerd_made_for_other_owners_is_compared(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A copy that containerd made for other owners lacks setuid bits and capabilities but has no findings; changes in
    it have.

    The container need not run: where user namespaces are not permitted, it is still based on the copy.
    """
    folder = tmp_path_factory.mktemp("c")
    ids_given(folder, 100_000)
    archive(folder / "image.tar", [base(), middle(), top()])
    layout = f"oci-archive:{folder}/oci.tar:a/b:1"
    run("skopeo", "--insecure-policy", "copy", f"docker-archive:{folder}/image.tar", layout).checked()
    with servers.containerd(folder / "engine") as server:
        ctr = ("ctr", "--address", server.address)
        run(*ctr, "images", "import", "--snapshotter", "overlayfs", folder / "oci.tar").checked()
        name = run(*ctr, "images", "list", "--quiet").checked().split()[0]
        run(*ctr, "run", "--detach", "--cpu-shares", "0", "--snapshotter", "overlayfs", *MAPPED, name, "box1")
        run(*ctr, "task", "delete", "--force", "box1")
    root = folder / "engine/root"
    clean = reports(root)
    (folder / "etc/subuid").write_text("containers:200000:65536\n")
    (unconfirmed,) = [each for each in reports(root) if each.what == "image"]
    (copy,) = [each.parent for each in root.glob("*/snapshots/*/fs/bin") if each.stat().st_uid == 100_000]
    (copy / "bin/tool").chmod(0o4755)
    of_other_content(copy / "bin/ping")
    (copy / "etc/gone").write_bytes(b"x")

    found = {(each.kind, each.path.rpartition("/fs/")[2]) for report in reports(root) for each in report.differences}

    assert [(each.what, each.status, each.differences) for each in clean] == [
        ("image", ReportStatus.HOLDS, ()),
        ("container", ReportStatus.HOLDS, ()),
    ]
    assert (unconfirmed.status, unconfirmed.differences) == (ReportStatus.UNKNOWN, ())
    assert "nothing outside the store confirms" in unconfirmed.unknown[0]
    assert found == {
        (DifferenceKind.MODE, "bin/tool"),
        (DifferenceKind.CONTENT, "bin/ping"),
        (DifferenceKind.EXTRA, "etc/gone"),
    }


def stopped(ctr: tuple[str, ...], box: str) -> None:
    run(*ctr, "task", "delete", "--force", box).checked()
    run(*ctr, "container", "delete", box).checked()


def swapped_for_a_changed_copy(root: Path) -> tuple[Path, Path]:
    """Put a changed copy in a layer's place; return the path of the original, and the path to which the copy is moved
    later."""
    (layer,) = [
        each for each in root.glob("*/snapshots/*/fs") if (each / "etc/gone").exists() and (each / "bin/su").exists()
    ]
    evil = layer.with_name("evil")
    subprocess.run(["cp", "-a", layer, evil], check=True)
    before = (evil / "etc/gone").stat()
    (evil / "etc/gone").write_bytes(b"y")
    os.utime(evil / "etc/gone", ns=(before.st_atime_ns, before.st_mtime_ns))
    layer.rename(layer.with_name("aside"))
    evil.rename(layer)
    return layer, evil


# ---- containers of Podman

RUNNING = ("-d", "--network", "none", "--pids-limit", "0")
"""Without limits, as the cgroups of some machines have none: what is looked at here has nothing to do with them."""


def boxed(folder: Path) -> tuple[tuple[str, ...], Path]:
    """Root's Podman with a runnable image, on a disk that gives the ids of MAPPED to a user."""
    ids_given(folder, 100_000)
    box = Layer().folder("bin").add("bin/box", Path(program("busybox")).read_bytes(), mode=0o755)
    box.add("bin/sleep", kind=b"1", link="bin/box", mode=0o755)
    archive(folder / "box.tar", [base(), box.done()], "shop/box:1", ["/bin/sleep", "1000"])
    podman = (*podman_on(folder / "root", folder), "--runtime", "runc")
    run(*podman, "load", "-i", folder / "box.tar").checked()
    return podman, folder / "root"


def test_a_podman_container_is_checked_through_its_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """When a stack link was redirected only for the start, only the container's process sees the other tree."""
    podman, root = boxed(tmp_path_factory.mktemp("p"))
    options = RUNNING
    try:
        clean_box = run(*podman, "run", *options, "shop/box:1").checked().strip()
        (layer,) = [each for each in (root / "overlay").glob("*/diff") if (each / "etc/gone").exists()]
        evil, aside = root / "overlay/evil", root / "overlay/aside"
        subprocess.run(["cp", "-a", layer, evil], check=True)
        (evil / "etc/passwd").write_bytes(b"evil:x:0:0\n")
        layer.rename(aside)
        evil.rename(layer)
        box = run(*podman, "run", *options, "shop/box:1").checked().strip()
        layer.rename(evil)
        aside.rename(layer)
        found = {each.id: each for each in reports(root) if each.what == "container"}
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0").checked()
        servers.unmounted(root.parent)

    assert (found[clean_box].status, bool(found[clean_box].running)) == (ReportStatus.HOLDS, True)
    assert {(each.kind, each.path) for each in found[box].differences} == {(DifferenceKind.RUNNING, "etc/passwd")}


MAPPED = ("--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536")
NO_MAPPING_MOUNTS = "_CONTAINERS_OVERLAY_DISABLE_IDMAP"
"""containers/storage then does as on kernels and file systems where a mount can't map ids (in a chroot: never)."""


@pytest.fixture(params=["mount", "copy"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How Podman changes the owners of an image's files: by a mapped mount or by a copy."""
    if request.param == "copy":
        monkeypatch.setenv(NO_MAPPING_MOUNTS, "yes")
    return str(request.param)


@pytest.mark.usefixtures("how")
def test_layers_with_mapped_ids_are_clean(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Layers of a container with `--uidmap`, by a mapped mount or by a copy with other owners, have no findings."""
    podman, root = boxed(tmp_path_factory.mktemp("m"))
    try:
        run(*podman, "create", "--network", "none", *MAPPED, "shop/box:1").checked()
        found = reports(root)
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0").checked()
        servers.unmounted(root.parent)

    assert {each.what for each in found} == {"image", "container"}
    assert [(each.status, each.differences, each.unknown) for each in found] == [(ReportStatus.HOLDS, (), ())] * len(
        found
    )


@pytest.mark.usefixtures("how", "_user_namespaces")
def test_a_process_with_mapped_ids_sees_its_layers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A process whose ids are mapped sees layers whose owners differ from those on the host; that is no difference."""
    podman, root = boxed(tmp_path_factory.mktemp("m"))
    try:
        run(*podman, "run", *RUNNING, *MAPPED, "shop/box:1").checked()
        found = reports(root)
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0").checked()
        servers.unmounted(root.parent)

    assert [bool(each.running) for each in found] == [False, True]
    assert [(each.status, each.differences, each.unknown) for each in found] == [(ReportStatus.HOLDS, (), ())] * len(
        found
    )


@pytest.fixture(scope="module")
def copied(empty_home: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Podman's root with a container on a copy of the image that has other owners."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(NO_MAPPING_MOUNTS, "yes")
        podman, root = boxed(tmp_path_factory.mktemp("m"))
        run(*podman, "create", "--network", "none", *MAPPED, "shop/box:1").checked()
    yield root
    servers.unmounted(root.parent)


def without_its_bits(path: Path) -> None:
    path.chmod(0o755)


def given_away(path: Path) -> None:
    os.chown(path, 0, 0)


def of_other_content(path: Path) -> None:
    before = path.stat()
    path.write_bytes(b"S" + path.read_bytes()[1:])
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def of_other_time(path: Path) -> None:
    os.utime(path, (1, 1))


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x")


def gone(path: Path) -> None:
    path.unlink()


def a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("/tmp/evil")


def with_an_attribute(path: Path) -> None:
    os.setxattr(path, "user.evil", b"x")


def that_can_do_all(path: Path) -> None:
    os.setxattr(path, "security.capability", bytes.fromhex("0100000200000080" + "00" * 12))


def beside_another(path: Path) -> None:
    (path.parent / "evil").write_bytes(b"x")


@pytest.mark.parametrize(
    ("attack", "kind", "name"),
    [
        (without_its_bits, DifferenceKind.MODE, "su"),
        (given_away, DifferenceKind.OWNER, "su"),
        (of_other_content, DifferenceKind.CONTENT, "su"),
        (of_other_time, DifferenceKind.MTIME, "su"),
        (longer, DifferenceKind.SIZE, "su"),
        (gone, DifferenceKind.MISSING, "su"),
        (a_link, DifferenceKind.TYPE, "su"),
        (with_an_attribute, DifferenceKind.XATTR, "su"),
        (that_can_do_all, DifferenceKind.CAPABILITY, "su"),
        (beside_another, DifferenceKind.EXTRA, "evil"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_change_of_a_copy_with_other_owners_differs(
    copied: Path, tmp_path: Path, attack: Callable[[Path], None], kind: DifferenceKind, name: str
) -> None:
    """A copy with other owners has no digest of its own, but a change in it is found by comparing it with the image."""
    subprocess.run(["cp", "-a", copied, tmp_path / "root"], check=True)
    (copy,) = (tmp_path / "root/overlay").glob("*/diff1")
    attack(copy / "bin/su")

    found = differences_in(tmp_path / "root")

    assert (kind, str((copy / "bin" / name).relative_to(tmp_path / "root"))) in found


@pytest.mark.parametrize("base", [100_000, 100_001, 300_000])
def test_the_owners_of_a_copy_whose_map_only_the_store_has_could_not_be_checked(
    copied: Path, tmp_path: Path, base: int
) -> None:
    """A copy's owners could not be checked if only the store has the id map, since both could have been changed
    together."""
    subprocess.run(["cp", "-a", copied, tmp_path / "root"], check=True)
    ids_given(tmp_path, 100_000 if base != 100_000 else 200_000)
    records = tmp_path / "root/overlay-layers/layers.json"
    records.write_text(records.read_text().replace('"host_id":100000', f'"host_id":{base}'))
    (copy,) = (tmp_path / "root/overlay").glob("*/diff1")
    given_to_others(copy, base - 100_000)

    (image,) = [each for each in reports(tmp_path / "root") if each.what == "image"]

    assert (image.status, image.differences) == (ReportStatus.UNKNOWN, ())
    assert "nothing outside the store confirms" in image.unknown[0]


def test_a_second_layer_on_a_copy_differs(copied: Path, tmp_path: Path) -> None:
    """A second layer on such a copy would be mounted over it, and is a difference."""
    subprocess.run(["cp", "-a", copied, tmp_path / "root"], check=True)
    (copy,) = (tmp_path / "root/overlay").glob("*/diff1")
    (copy.with_name("diff") / "evil").write_bytes(b"x")

    assert (DifferenceKind.STACK, str(copy.parent.relative_to(tmp_path / "root"))) in differences_in(tmp_path / "root")


def test_what_is_based_on_layers_of_another_store_could_not_be_checked(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Containers and images on a shared `additionalimagestores` could not be checked."""
    folder = tmp_path_factory.mktemp("a")
    podman, root = boxed(folder)
    here = tuple(str(folder / "here") if each == str(root) else each for each in podman)
    here = (here[0], "--storage-opt", f"overlay.imagestore={root}", *here[1:])
    (folder / "Dockerfile").write_text("FROM shop/box:1\nCOPY box.tar /x\n")
    try:
        run(*here, "create", "--network", "none", "shop/box:1").checked()
        run(*here, "build", "--isolation", "chroot", "-t", "mine:1", folder).checked()
        found = reports(folder / "here")
    finally:
        run(*here, "rm", "--force", "--all", "--time", "0").checked()
        servers.unmounted(folder)

    assert [(each.what, each.status) for each in found] == [
        ("image", ReportStatus.UNKNOWN),
        ("container", ReportStatus.UNKNOWN),
    ]
    assert all("another store" in each.unknown[0] for each in found)


def test_a_container_with_a_separate_image_store_could_not_be_checked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """With Podman's `imagestore` this store has only the container's own layer, so the container could not be checked."""
    folder = tmp_path_factory.mktemp("i")
    podman, root = boxed(folder)
    apart = tuple(str(folder / "here") if each == str(root) else each for each in podman)
    apart = (apart[0], "--imagestore", str(folder / "images"), *apart[1:])
    try:
        run(*apart, "load", "-i", folder / "box.tar").checked()
        run(*apart, "create", "--network", "none", "shop/box:1").checked()
        found = [*reports(folder / "here"), *reports(folder / "images")]
    finally:
        run(*apart, "rm", "--force", "--all", "--time", "0").checked()
        servers.unmounted(folder)

    assert [(each.what, each.status) for each in found] == [
        ("container", ReportStatus.UNKNOWN),
        ("image", ReportStatus.UNKNOWN),
    ]
    assert all("another store" in each.unknown[0] for each in found)


def test_a_container_on_unsupported_layers_could_not_be_checked(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A container on layers of an unsupported driver could not be checked, like its image."""
    podman, root = boxed(tmp_path_factory.mktemp("f"))
    try:
        run(*podman, "create", "--network", "none", "shop/box:1").checked()
        (root / "overlay/.has-mount-program").write_text("true")
        found = reports(root)
        (root / "overlay/.has-mount-program").write_text("false")
    finally:
        run(*podman, "rm", "--force", "--all", "--time", "0").checked()
        servers.unmounted(root.parent)

    assert [(each.what, each.status) for each in found] == [
        ("image", ReportStatus.UNKNOWN),
        ("container", ReportStatus.UNKNOWN),
    ]
