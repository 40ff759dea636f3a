"""Hostile metadata: its image is reported, the rest is checked, and nothing outside of the store is read."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.host.scrub.find_stores import NoStoreFound, store_at
from boltseal.host.scrub.layer_comparison import MAX_ABSENT
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests.host.scrub.made_stores import DockerStore, split_of

ID = "a" * 64
ID64 = ID.encode()
EMPTY = f"sha256:{hashlib.sha256(b'').hexdigest()}"


@pytest.fixture
def store(tmp_path: Path) -> DockerStore:
    """A store with a good image of two layers."""
    made = DockerStore.at(tmp_path)
    made.image("good:1", {"etc/good": b"good"}, {"bin/good": b"good"})
    return made


def checked(store: DockerStore) -> dict[str, ScrubReport]:
    found = scrub(store_at(store.root), ScrubRequest(), lambda *_: None)
    return {each.ref: each for each in found}


def diff_ids(*named: object) -> bytes:
    return json.dumps({"rootfs": {"diff_ids": named}}).encode()


CONFIGS: dict[str, bytes] = {
    "no-json": b"\x00\x01",
    "cut-off": b'{"rootfs":{"diff_ids":["sha256:',
    "deeply-nested": b'{"rootfs":' * 100_000,
    "deep-lists": b'{"rootfs":{"diff_ids":' + b"[" * 500_000,
    "other-types": diff_ids(1, None, {}),
    "a-path-for-a-digest": diff_ids("../../../../etc"),
    "another-algorithm": diff_ids("md5:" + "a" * 32),
    "a-million-layers": diff_ids(*(["sha256:" + "a" * 64] * 100_000)),
    "a-layer-that-is-not-there": diff_ids("sha256:" + "a" * 64),
    "a-huge-number": b'{"rootfs":{"diff_ids":[' + b"9" * 1_000_000 + b"]}}",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_config_is_reported_and_the_other_image_is_checked(store: DockerStore, name: str) -> None:
    """A hostile config is reported for its image, and the other image is checked."""
    store.config("bad:1", CONFIGS[name])

    found = checked(store)

    assert found["bad:1"].status is ReportStatus.DIFFERS
    assert found["good:1"].status is ReportStatus.HOLDS


def test_a_config_of_gigabytes_is_not_read(store: DockerStore) -> None:
    """A sparse config of gigabytes, cheap to create, is not read."""
    bad = store.config("bad:1", b"{}")
    os.truncate(store.root / "image/overlay2/imagedb/content/sha256" / bad.hex, 8 << 30)

    found = checked(store)

    assert found["bad:1"].status is ReportStatus.DIFFERS
    assert "more than" in found["bad:1"].differences[0].got


def test_a_hostile_list_of_names_leaves_the_images(store: DockerStore) -> None:
    """If the list of names is hostile, images are checked by their IDs."""
    (store.root / "image/overlay2/repositories.json").write_bytes(b'{"Repositories":' + b"{" * 1_000_000)

    found = scrub(store_at(store.root), ScrubRequest(), lambda *_: None)

    assert {(each.what, each.status) for each in found} == {
        ("store", ReportStatus.UNKNOWN),
        ("image", ReportStatus.HOLDS),
    }


MAX_MB = 200


def joined(entry: bytes, size: int, start: bytes, end: bytes) -> bytes:
    """Return a JSON list of about so many bytes. Each `#` of an entry becomes the entry's number, of six digits."""
    block = b",".join(entry.replace(b"#", b"#%03x" % number) for number in range(0x1000))
    blocks = size // len(block.replace(b"#", b"000"))
    return start + b",".join(block.replace(b"#", b"%03x" % number) for number in range(blocks)) + end


LONG_LISTS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "repositories": (
        "image/overlay2/repositories.json",
        lambda: joined(b'"#":{}', 60_000_000, b'{"Repositories":{', b"}}"),
    ),
    "tags": (
        "image/overlay2/repositories.json",
        lambda: joined(b'"#:#":"sha256:' + ID64 + b'"', 60_000_000, b'{"Repositories":{"x":{', b"}}}"),
    ),
    "images": (
        "overlay-images/images.json",
        lambda: joined(b'{"id":"' + b"0" * 58 + b'#","layer":"b"}', 60_000_000, b"[", b"]"),
    ),
    "the-same-image": (
        "overlay-images/images.json",
        lambda: joined(b'{"id":"a","layer":"b"}', 60_000_000, b"[", b"]"),
    ),
    "layers": (
        "overlay-layers/layers.json",
        lambda: joined(b'{"id":"#"}', 60_000_000, b"[", b"]"),
    ),
    "containers": (
        "overlay-containers/containers.json",
        lambda: joined(b'{"id":"a"}', 60_000_000, b"[", b"]"),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG_LISTS)
def test_a_list_of_very_many_short_values_costs_neither_time_nor_memory(
    store: DockerStore, tmp_path: Path, name: str
) -> None:
    """A list of millions of short values is refused early, because each would take some hundred bytes of memory."""
    path, content = LONG_LISTS[name]
    root = store.root if path.startswith("image/") else podman_store(tmp_path / "podman")
    (root / path).write_bytes(content())

    found, peak = checked_elsewhere(root)

    assert "unknown" in found
    assert "differs" not in found
    assert peak < MAX_MB


@pytest.mark.slow
def test_repeated_layers_are_limited(tmp_path: Path) -> None:
    """Of a small list with hundreds of images of a thousand layers, some are read and the others reported."""
    folder, config = tmp_path / "layout", diff_ids(*([EMPTY] * 1000))
    layout(folder, b"")
    (folder / "index.json").unlink()
    (folder / "x").touch()
    name = hashlib.sha256(config).hexdigest().encode()
    (folder / name.decode()).write_bytes(config)
    image = b'{"Config":"%s","Layers":[' % name + b",".join([b'"x"'] * 1000) + b"]}"
    (folder / "manifest.json").write_bytes(b"[" + b",".join([image] * 490) + b"]")

    found, peak = checked_elsewhere(folder)

    assert (found.count("holds"), found.count("unknown")) == (200, 290)
    assert peak < MAX_MB


def checked_elsewhere(root: Path) -> tuple[list[str], float]:
    """Check in another process; return its report as text, and its peak memory in MB."""
    done = subprocess.run([sys.executable, "-c", _CHECKED, root], check=True, stdout=subprocess.PIPE, text=True)
    *found, peak = done.stdout.split()
    return found, int(peak) / 1024


_CHECKED = """
import re, resource, sys
from pathlib import Path
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.scrub import ScrubRequest, scrub
for each in scrub(store_at(Path(sys.argv[1])), ScrubRequest(), lambda *_: None):
    print(each.status)
mine = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
print(max(mine, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def test_a_damaged_container_leaves_the_others(store: DockerStore) -> None:
    """A damaged container is reported, and the others, which have their own files, are checked."""
    for id_, config in (("b" * 64, b"{"), ("c" * 64, b'{"Name":"/whole","Driver":"overlay2"}')):
        (store.root / "containers" / id_).mkdir(parents=True)
        (store.root / "containers" / id_ / "config.v2.json").write_bytes(config)

    found = checked(store)

    assert found["good:1"].status is ReportStatus.HOLDS
    assert "has an unexpected form" in found["b" * 12].unknown[0]
    assert "mount-id is gone" in found["whole"].unknown[0]


def test_a_claimed_intermediate_image_is_still_checked(store: DockerStore) -> None:
    """Unnamed images are hidden as intermediate only if another image really has their layers."""
    evil = store.image("evil:1", {"bin/evil": b"evil"})
    names = store.root / "image/overlay2/repositories.json"
    listed = json.loads(names.read_text())
    del listed["Repositories"]["evil"]
    (good,) = listed["Repositories"]["good"].values()
    names.write_text(json.dumps(listed))
    metadata = store.root / "image/overlay2/imagedb/metadata/sha256" / good.removeprefix("sha256:")
    metadata.mkdir(parents=True)
    (metadata / "parent").write_text(str(evil))
    (store.layer(2) / "bin/evil").write_bytes(b"EVIL")

    found = checked(store)

    assert found[evil.short].status is ReportStatus.DIFFERS


def bomb(store: DockerStore, layer: int = 0) -> Path:
    """Return the tar-split of a layer of the good image, changed as given."""
    folder = store.layer(layer).parent.name
    (found,) = [
        each
        for each in store.root.glob("image/overlay2/layerdb/sha256/*/cache-id")
        if each.read_text() == folder
    ]  # fmt: skip
    return found.with_name("tar-split.json.gz")


Lines = list[dict[str, object]]


def without_an_end(lines: Lines) -> None:
    lines[0]["payload"] = "A" * 50_000_000


def points_outside(lines: Lines) -> None:
    lines[1]["name"] = "../../../../../../etc/passwd"


def very_deep(lines: Lines) -> None:
    entry = tarfile.TarInfo("d/" * 1500 + "f")
    lines[0]["payload"] = base64.b64encode(entry.tobuf(tarfile.PAX_FORMAT)).decode()
    lines[1]["name"] = entry.name


def absurd_size(lines: Lines) -> None:
    lines[-2]["size"] = 1 << 63


def negative_size(lines: Lines) -> None:
    lines[-2]["size"] = -1


def unknown_type(lines: Lines) -> None:
    lines[0]["type"] = 7


def no_base64(lines: Lines) -> None:
    lines[0]["payload"] = "?"


@pytest.mark.parametrize(
    "change",
    [points_outside, very_deep, absurd_size, negative_size, unknown_type, no_base64, without_an_end],
    ids=lambda f: f.__name__,
)
@pytest.mark.slow
def test_a_hostile_tar_split_is_reported(store: DockerStore, change: Callable[[Lines], None]) -> None:
    """A hostile tar-split is reported for its layer, and the check ends."""
    path = bomb(store)
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    change(lines)
    path.write_bytes(split_of(lines))

    report = checked(store)["good:1"]

    assert report.status is ReportStatus.DIFFERS


def test_a_tar_split_that_expands_without_end_is_reported(store: DockerStore) -> None:
    """A tar-split that decompresses to a thousand times its size, or has one endless line, is reported."""
    bomb(store).write_bytes(gzip.compress(b"0" * 100_000_000))

    assert checked(store)["good:1"].status is ReportStatus.DIFFERS


@pytest.mark.parametrize("what", ["diff", "cache-id", "tar-split.json.gz"])
def test_a_link_in_place_of_a_file_is_not_followed(store: DockerStore, tmp_path: Path, what: str) -> None:
    """A link in place of a file, to an unmodified copy outside of the store, is not followed."""
    path = bomb(store).with_name(what)
    shutil.copy(path, tmp_path / "outside")
    path.unlink()
    path.symlink_to(tmp_path / "outside")

    assert checked(store)["good:1"].status is ReportStatus.DIFFERS


@pytest.mark.parametrize("up", ["overlay2", "image/overlay2/layerdb", "image/overlay2/imagedb/content"])
def test_a_link_in_place_of_a_folder_on_the_way_is_not_followed(store: DockerStore, tmp_path: Path, up: str) -> None:
    """A link in place of a folder, to an unmodified copy outside of the store, is not followed."""
    shutil.move(store.root / up, tmp_path / "outside")
    (store.root / up).symlink_to(tmp_path / "outside")

    assert all(each.status is not ReportStatus.HOLDS for each in checked(store).values())


def test_a_store_of_a_mounted_disk_that_is_a_link_to_this_hosts_is_refused(store: DockerStore, tmp_path: Path) -> None:
    """A store on a mounted disk that is a link to this host's store is refused, or the wrong store would be checked."""
    disk = tmp_path / "disk"
    (disk / "var/lib").mkdir(parents=True)
    (disk / "var/lib/docker").symlink_to(store.root)

    with pytest.raises(NoStoreFound):
        store_at(disk)


def test_a_store_of_a_mounted_disk_is_found_by_its_own_configuration(store: DockerStore, tmp_path: Path) -> None:
    """A mounted disk's store is found by the disk's link or configuration, relative to the disk's root."""
    disk = tmp_path / "disk"
    shutil.copytree(store.root, disk / "srv" / store.root.name, symlinks=True)
    (disk / "etc/docker").mkdir(parents=True)
    (disk / "etc/docker/daemon.json").write_text(json.dumps({"data-root": f"/data/{store.root.name}"}))
    (disk / "data").symlink_to("/srv")

    (found,) = scrub(store_at(disk), ScrubRequest(), lambda *_: None)

    assert (found.status, found.root) == (ReportStatus.HOLDS, str(disk / "srv" / store.root.name))


@pytest.mark.parametrize("inner", ["containerd", "1.1"])
def test_a_store_in_a_store_that_is_a_link_is_not_followed(store: DockerStore, tmp_path: Path, inner: str) -> None:
    """A link in place of Docker's containerd store or user namespace folder is not followed."""
    other = tmp_path / "other"
    (other / "daemon/io.containerd.metadata.v1.bolt").mkdir(parents=True)
    (other / "image").mkdir()
    (store.root / inner).symlink_to(other)

    assert [each.root for each in store_at(store.root)] == [store.root]


def test_a_pipe_in_place_of_a_file_does_not_block(store: DockerStore) -> None:
    """A named pipe in place of a file does not block the check."""
    for name in ("diff", "tar-split.json.gz"):
        path = bomb(store).with_name(name)
        path.unlink()
        os.mkfifo(path)

    assert checked(store)["good:1"].status is ReportStatus.DIFFERS


def test_names_with_control_characters_are_escaped(store: DockerStore) -> None:
    """File names with control characters are escaped in the report."""
    (store.layer() / "etc" / "\x1b[2Jevil\n").write_bytes(b"x")

    (found,) = [each for each in checked(store)["good:1"].differences if "evil" in each.path]

    assert found.path == "etc/\\x1b[2Jevil\\n"


def test_of_very_many_unexpected_names_only_some_are_listed(store: DockerStore) -> None:
    """Of very many unexpected names some are listed, and the count is right."""
    for number in range(1500):
        (store.layer() / "etc" / f"evil{number}").touch()

    report = checked(store)["good:1"]

    assert report.count >= 1500
    assert len(report.differences) <= 1010


@pytest.mark.slow
def test_entries_in_missing_folders_are_limited(store: DockerStore) -> None:
    """Entries in missing folders are limited, because recording each would cost much more than its compressed line."""
    rest = tarfile.TarInfo("f").tobuf()[100:]
    with gzip.open(bomb(store), "wb", compresslevel=1) as file:
        for number in range(MAX_ABSENT + 1):
            header = b"%d/f".ljust(102, b"\0") % number
            file.write(b'{"type":2,"payload":"%s"}\n' % base64.b64encode(header[:100] + rest))
            file.write(b'{"type":1,"name":"%d/f","payload":null}\n' % number)

    report = checked(store)["good:1"]

    assert report.status is ReportStatus.DIFFERS
    assert "folders of it do not exist" in " ".join(each.got for each in report.differences)


def podman_store(folder: Path, **lists: object) -> Path:
    """Return a Podman store with these metadata lists."""
    for name in ("images", "layers", "containers"):
        (folder / f"overlay-{name}").mkdir(parents=True)
        raw = lists.get(name, [])
        (folder / f"overlay-{name}/{name}.json").write_bytes(
            raw if isinstance(raw, bytes) else json.dumps(raw).encode()
        )
    (folder / "overlay/l").mkdir(parents=True)
    return folder


HOSTILE_LISTS: dict[str, dict[str, object]] = {
    "deeply-nested": {"images": b"[" * 1_000_000},
    "no-json": {"images": b"\xff\x00"},
    "no-list": {"images": {"id": ID}},
    "an-id-that-is-a-path": {"images": [{"id": "../../../../etc", "layer": ID}]},
    "a-layer-that-is-a-path": {"images": [{"id": ID, "layer": "../x"}], "layers": [{"id": "../x"}]},
    "a-line-of-another-kind": {"images": [7, {"id": ID, "layer": "b"}]},
    "a-layer-upon-itself": {"images": [{"id": ID, "layer": "b"}], "layers": [{"id": "b", "parent": "b"}]},
    "a-container-upon-itself": {
        "layers": [{"id": "b", "parent": "c"}, {"id": "c", "parent": "b"}],
        "containers": [{"id": "x", "layer": "b", "image": ID}],
    },
    "numbers-for-names": {"images": [{"id": ID, "names": [1, 2]}]},
    "maps-of-ids-without-sense": {
        "images": [{"id": ID, "layer": "b"}],
        "layers": [{"id": "b", "uidmap": [{"container_id": -1, "host_id": 1 << 62, "size": 1 << 62}]}],
    },
}


@pytest.mark.parametrize("name", HOSTILE_LISTS)
def test_hostile_lists_of_podman_are_reported(tmp_path: Path, name: str) -> None:
    """Hostile metadata lists of Podman are reported: the check ends, and is not a success."""
    root = podman_store(tmp_path / "root", **HOSTILE_LISTS[name])

    found = scrub(store_at(root), ScrubRequest(), lambda *_: None)

    assert found
    assert all(each.status is not ReportStatus.HOLDS for each in found)


def layout(folder: Path, index: bytes, **blobs: bytes) -> Path:
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_bytes(index)
    for name, raw in blobs.items():
        (folder / "blobs/sha256" / name.removeprefix("b_")).write_bytes(raw)
    return folder


def index_of(digest: str, media_type: str) -> bytes:
    described = {"mediaType": media_type, "digest": digest, "size": 1}
    return json.dumps({"schemaVersion": 2, "manifests": [described]}).encode()


OCI_INDEX = "application/vnd.oci.image.index.v1+json"
INDEXES: dict[str, bytes] = {
    "deeply-nested": b'{"manifests":' * 100_000,
    "no-json": b"\x00",
    "a-path-for-a-digest": index_of("sha256:../../../../etc/passwd", OCI_INDEX),
    "an-index-in-itself": index_of("sha256:" + ID, OCI_INDEX),
    "a-million-manifests": json.dumps(
        {"schemaVersion": 2, "manifests": [{"mediaType": OCI_INDEX, "digest": "x", "size": 1}] * 200_000}
    ).encode(),
}


@pytest.mark.parametrize("name", INDEXES)
def test_a_hostile_layout_is_reported(tmp_path: Path, name: str) -> None:
    """A hostile OCI layout is reported as hostile stores are."""
    folder = layout(tmp_path / "layout", INDEXES[name], **{f"b_{ID}": INDEXES["an-index-in-itself"]})

    found = scrub(store_at(folder), ScrubRequest(), lambda *_: None)

    assert found
    assert all(each.status is not ReportStatus.HOLDS for each in found)


def test_an_archive_of_names_of_megabytes_is_reported(tmp_path: Path) -> None:
    """An archive whose names have megabytes is reported, because all names are kept in memory."""
    with tarfile.open(tmp_path / "saved.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("n" * 100_000))

    (found,) = scrub(store_at(tmp_path / "saved.tar"), ScrubRequest(), lambda *_: None)

    assert found.status is ReportStatus.UNKNOWN
    assert "a name of 100000 bytes" in found.unknown[0]


@pytest.mark.parametrize("what", ["pipe", "socket", "device", "folder", "nothing"])
def test_an_archive_that_is_no_regular_file_does_not_block(tmp_path: Path, what: str) -> None:
    """A pipe or a device in place of an archive does not block."""
    path = tmp_path / "saved.tar"
    if what == "device" and os.geteuid() != 0:
        pytest.skip("only root may make devices")
    modes = {"pipe": stat.S_IFIFO, "socket": stat.S_IFSOCK, "device": stat.S_IFCHR}
    if what in modes:
        os.mknod(path, modes[what] | 0o600, os.makedev(1, 7) if what == "device" else 0)
    elif what == "folder":
        path.mkdir()

    if what in modes:
        (found,) = scrub(store_at(path), ScrubRequest(), lambda *_: None)

        assert found.status is ReportStatus.UNKNOWN
    else:
        with pytest.raises(NoStoreFound):
            store_at(path)
