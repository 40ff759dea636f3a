"""Attacks on metadata, on the order of layers and on names, while the files stay unmodified."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from fastcrc import crc64

from boltseal.host.scrub.differences import DifferenceKind
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.layer_check import CheckMode
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.trust import Expectation, Level
from boltseal.oci.digest import Digest
from tests.attacks.scrub.file_changes import rewritten
from tests.attacks.scrub.image import NAME, archive, base, middle, top
from tests.attacks.scrub.stores import Store
from tests.attacks.scrub.users import given_to_others
from tests.real.tools import run

pytestmark = pytest.mark.real

LAYERDB = "image/overlay2/layerdb/sha256"


def kinds(report: ScrubReport) -> set[DifferenceKind]:
    return {each.kind for each in report.differences}


def differences_in(report: ScrubReport) -> set[tuple[DifferenceKind, str]]:
    return {(each.kind, each.path) for each in report.differences}


@pytest.fixture
def docker(copy_of: Callable[[str], Store]) -> Store:
    return copy_of("docker")


@pytest.fixture
def podman(copy_of: Callable[[str], Store]) -> Store:
    return copy_of("podman")


@pytest.fixture(params=["docker", "podman"])
def linked(request: pytest.FixtureRequest, copy_of: Callable[[str], Store]) -> Store:
    """Stores whose layer stack uses links."""
    return copy_of(request.param)


@pytest.fixture(params=["docker-containerd", "containerd"])
def contained(request: pytest.FixtureRequest, copy_of: Callable[[str], Store]) -> Store:
    """Stores of containerd."""
    return copy_of(request.param)


def link_of(store: Store, layer: int) -> Path:
    folder = store.at("", layer).parent
    return folder.parent / "l" / (folder / "link").read_text()


# ---- the layer stack


def test_a_stack_link_to_a_copied_tree_differs(linked: Store) -> None:
    """A stack link to a copied tree, which the kernel follows at the next mount, differs although the layers are
    unchanged."""
    shutil.copytree(linked.at("", 2), linked.root / "evil", symlinks=True)
    link = link_of(linked, 2)
    link.unlink()
    link.symlink_to(linked.root / "evil")

    report = linked.image_report()

    assert (DifferenceKind.STACK, str(link.relative_to(linked.root))) in differences_in(report)


def test_a_stack_link_to_another_layer_differs(linked: Store) -> None:
    """A stack link to another layer of the same image differs, because one layer is then left out."""
    target = link_of(linked, 0).readlink()
    link = link_of(linked, 2)
    link.unlink()
    link.symlink_to(target)

    assert DifferenceKind.STACK in kinds(linked.image_report())


def test_a_layer_missing_from_the_list_of_lower_layers_differs(linked: Store) -> None:
    """A layer missing from the file `lower`, which decides what is mounted, is a difference."""
    lower = linked.at("", 2).parent / "lower"
    lower.write_text(lower.read_text().split(":")[1])

    report = linked.image_report()

    assert (DifferenceKind.STACK, str(lower.relative_to(linked.root))) in differences_in(report)


def test_a_foreign_layer_in_the_list_of_lower_layers_differs(linked: Store) -> None:
    """A path out of the store in the list of lower layers is a difference."""
    lower = linked.at("", 2).parent / "lower"
    lower.write_text("../../../../tmp/evil:" + lower.read_text())

    assert DifferenceKind.STACK in kinds(linked.image_report())


@pytest.mark.parametrize("evil", [False, True])
def test_another_folder_in_the_list_must_be_the_same_layer(docker: Store, evil: bool) -> None:
    """BuildKit's second folder of one layer is accepted in the list only if it equals that layer completely."""
    first, name = docker.at("", 0).parent, "e" * 25
    other = first.with_name(name)
    subprocess.run(["cp", "-a", first, other], check=True)
    link = first.parent / "l" / ("Z" * 26)
    link.symlink_to(f"../{name}/diff")
    for number in (1, 2):
        lower = docker.at("", number).parent / "lower"
        lower.write_text(lower.read_text().replace((first / "link").read_text(), link.name))
    if evil:
        rewritten(other / "diff/etc/passwd", b"evil" + (other / "diff/etc/passwd").read_bytes()[4:])

    report = docker.image_report()

    assert (DifferenceKind.STACK in kinds(report)) is evil
    assert (report.status is ReportStatus.HOLDS) is not evil


def test_a_changed_short_name_differs(linked: Store) -> None:
    """A changed name in a layer's file `link`, by which child layers find it, is a difference."""
    (linked.at("", 0).parent / "link").write_text((linked.at("", 1).parent / "link").read_text())

    assert DifferenceKind.STACK in kinds(linked.image_report())


def test_a_cache_id_of_another_folder_differs(docker: Store) -> None:
    """A cache-id that names another folder, which Docker would mount, is a difference."""
    folder = docker.at("", 2).parent
    evil = folder.with_name("e" * 64)
    shutil.copytree(folder, evil, symlinks=True)
    rewritten(evil / "diff/app", (evil / "diff/app").read_bytes().replace(b"sleep", b"SLEEP"))
    (cache_id,) = [each for each in (docker.root / LAYERDB).glob("*/cache-id") if each.read_text() == folder.name]
    cache_id.write_text(evil.name)

    report = docker.image_report()

    assert (DifferenceKind.CONTENT, "app") in differences_in(report)
    assert DifferenceKind.STACK in kinds(report)


def test_a_cache_id_outside_of_the_store_is_not_read(docker: Store, tmp_path: Path) -> None:
    """A cache-id that is a path is not followed."""
    for cache_id in (docker.root / LAYERDB).glob("*/cache-id"):
        cache_id.write_text("../../../../../etc")

    report = docker.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert kinds(report) == {DifferenceKind.METADATA}


def test_two_swapped_snapshots_differ(contained: Store) -> None:
    """Two snapshots whose folders were exchanged differ, although each is a layer of the image."""
    first, second, aside = contained.at("", 0), contained.at("", 1), contained.root / "aside"
    first.rename(aside)
    second.rename(first)
    aside.rename(second)

    report = contained.image_report()

    assert (DifferenceKind.MISSING, "bin/tool") in differences_in(report)


# ---- manifests, configs, blobs, checksums


def config_of(store: Store) -> Path:
    """Return the file of the image's config."""
    key = base64.b64encode(f"sha256:{store.image}".encode()).decode()
    places = {
        "docker": f"image/overlay2/imagedb/content/sha256/{store.image}",
        "podman": f"overlay-images/{store.image}/={key}",
    }
    return store.root / places.get(store.name, f"io.containerd.content.v1.content/blobs/sha256/{store.image}")


def test_an_edited_config_differs(store: Store) -> None:
    """An edited config differs, because its digest is the image's ID."""
    config = config_of(store)
    config.chmod(0o644)
    config.write_bytes(config.read_bytes().replace(b'"/app"', b'"/evl"'))

    assert DifferenceKind.CONFIG in kinds(store.image_report())


def test_an_edited_manifest_differs(podman: Store) -> None:
    """An edited manifest differs, because the image's record has its digest."""
    manifest = podman.root / "overlay-images" / podman.image / "manifest"
    manifest.write_bytes(manifest.read_bytes() + b"\n")

    assert DifferenceKind.MANIFEST in kinds(podman.image_report())


def blobs(store: Store) -> Path:
    return store.root / "io.containerd.content.v1.content/blobs/sha256"


def layer_blob(store: Store) -> Path:
    """Return the blob of the lowest layer, which is the largest."""
    return max(blobs(store).iterdir(), key=lambda each: each.stat().st_size)


def test_a_blob_with_one_flipped_byte_differs(contained: Store) -> None:
    """A flipped byte in a layer's blob is found: the engine could push the blob, or unpack it elsewhere."""
    blob = layer_blob(contained)
    content = bytearray(blob.read_bytes())
    content[700] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(content)

    assert DifferenceKind.DIGEST in kinds(contained.image_report())


def test_a_truncated_blob_differs(contained: Store) -> None:
    """A truncated layer blob is a difference: entries missing from it are not skipped."""
    blob = layer_blob(contained)
    blob.chmod(0o644)
    os.truncate(blob, blob.stat().st_size // 2)

    assert DifferenceKind.DIGEST in kinds(contained.image_report())


def test_a_sparse_blob_is_read_only_up_to_its_size(contained: Store) -> None:
    """A huge sparse blob, cheap to create and slow to read, is read only up to the size in the manifest."""
    blob = layer_blob(contained)
    blob.chmod(0o644)
    os.truncate(blob, 1 << 43)

    report = contained.image_report()

    assert kinds(report) == {DifferenceKind.SIZE}


def test_a_missing_blob_leaves_its_snapshot_unproven(contained: Store) -> None:
    """Without its blob a snapshot's expected files are unknown, so it could not be checked."""
    layer_blob(contained).unlink()

    report = contained.image_report()

    assert report.status is ReportStatus.UNKNOWN
    assert "is not in this store" in report.unknown[0]


def test_quick_reads_no_blob_and_says_what_is_not_checked(contained: Store) -> None:
    """containerd lists the files of a layer only in its blob, so --quick compares no file, and states that."""
    contained.at("bin/tool").chmod(0o4755)
    read: list[int] = []

    (report,) = scrub(
        store_at(contained.root), ScrubRequest(check_mode=CheckMode(quick=True)), lambda size, *_: read.append(size)
    )
    whole = contained.image_report()

    assert (report.status, max(read)) == (ReportStatus.HOLDS, 0)
    assert "unpacked files" in report.unchecked[0]
    assert (whole.status, whole.unchecked) == (ReportStatus.DIFFERS, ())


def test_quick_compares_the_sizes_of_blobs(contained: Store) -> None:
    """A blob that is shorter than the manifest says is found without reading it."""
    (largest, *_) = sorted(
        (contained.root / "io.containerd.content.v1.content/blobs/sha256").iterdir(),
        key=lambda each: -each.stat().st_size,
    )
    os.truncate(largest, largest.stat().st_size - 1)

    report = contained.image_report(ScrubRequest(check_mode=CheckMode(quick=True)))

    assert kinds(report) == {DifferenceKind.SIZE}


def split_of(store: Store, layer: int) -> Path:
    """Return the tar-split file of a layer."""
    folder = store.at("", layer).parent.name
    if store.name == "podman":
        return store.root / "overlay-layers" / f"{folder}.tar-split.gz"
    (found,) = [each for each in (store.root / LAYERDB).glob("*/cache-id") if each.read_text() == folder]
    return found.with_name("tar-split.json.gz")


def edited_split(path: Path, edit: Callable[[list[dict[str, object]]], None]) -> None:
    lines = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    edit(lines)
    path.write_bytes(gzip.compress(b"".join(json.dumps(line).encode() + b"\n" for line in lines)))


def forged(store: Store) -> bytes:
    """Change a file and its checksum in the tar-split; return the layer's new tar."""
    content = store.at("bin/tool").read_bytes()[:-4] + b"EVIL"
    rewritten(store.at("bin/tool"), content)

    def edit(lines: list[dict[str, object]]) -> None:
        for line in lines:
            if line.get("name") == "bin/tool":
                line["payload"] = base64.b64encode(crc64.go_iso(content).to_bytes(8)).decode()

    edited_split(split_of(store, 0), edit)
    return base().replace(b"#!tool\n" * 3000, content)


def test_a_forged_checksum_in_the_tar_split_is_found(linked: Store) -> None:
    """With file and checksum forged, the layer's digest is wrong, and the report says that no single file could be
    named."""
    forged(linked)

    report = linked.image_report()

    assert (DifferenceKind.DIGEST, "") in differences_in(report)
    assert "forged" in report.differences[0].got


def test_a_forged_digest_beside_the_layer_is_found(linked: Store) -> None:
    """A forged digest beside the layer is found: the config's digest of the layer decides, and the image ID proves the
    config."""
    forged_digest = f"sha256:{hashlib.sha256(forged(linked)).hexdigest()}"
    true_digest = f"sha256:{hashlib.sha256(base()).hexdigest()}"
    if linked.name == "docker":
        (split_of(linked, 0).with_name("diff")).write_text(forged_digest)
    else:
        records = linked.root / "overlay-layers/layers.json"
        records.write_text(records.read_text().replace(true_digest, forged_digest))

    report = linked.image_report()

    assert {DifferenceKind.DIGEST, DifferenceKind.METADATA} <= kinds(report)


def test_a_tar_split_with_the_content_of_a_file_is_refused(linked: Store) -> None:
    """A tar-split that stores a file's content is refused, since its digest would match whatever the disk has."""
    content = linked.at("bin/tool").read_bytes()
    rewritten(linked.at("bin/tool"), content[:-4] + b"EVIL")

    def edit(lines: list[dict[str, object]]) -> None:
        at = next(index for index, line in enumerate(lines) if line.get("name") == "bin/tool")
        lines[at] = {"type": 2, "payload": base64.b64encode(content).decode()}

    edited_split(split_of(linked, 0), edit)

    report = linked.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert DifferenceKind.METADATA in kinds(report)


def test_a_tar_split_with_the_content_of_an_empty_entry_is_refused(linked: Store) -> None:
    """A tar-split that stores the content of an entry without content is refused, since a missing file would go
    unreported."""
    content = linked.at("bin/tool").read_bytes()
    rewritten(linked.at("bin/tool"), content[:-4] + b"EVIL")

    def edit(lines: list[dict[str, object]]) -> None:
        at = next(index for index, line in enumerate(lines) if line.get("name") == "bin/tool")
        del lines[at]["size"]
        lines[at]["payload"] = None
        lines.insert(at + 1, {"type": 2, "payload": base64.b64encode(content).decode()})

    edited_split(split_of(linked, 0), edit)

    assert DifferenceKind.METADATA in kinds(linked.image_report())


def test_an_entry_hidden_in_the_padding_is_refused(linked: Store) -> None:
    """A tar-split that hides a removed file's entry in the padding at the end of the tar is refused."""
    linked.at("app", 2).unlink()

    def edit(lines: list[dict[str, object]]) -> None:
        at = next(index for index, line in enumerate(lines) if line.get("name") == "app")
        lines[at] = {"type": 2, "payload": base64.b64encode(b"#!/bin/sh\nsleep 1000\n").decode()}

    edited_split(split_of(linked, 2), edit)

    report = linked.image_report()

    assert report.status is ReportStatus.DIFFERS


def test_a_damaged_tar_split_differs(linked: Store) -> None:
    """A damaged tar-split is a difference for its own image only."""
    split_of(linked, 0).write_bytes(b"\x1f\x8bdamaged")

    assert DifferenceKind.METADATA in kinds(linked.image_report())


def test_a_missing_tar_split_differs(linked: Store) -> None:
    """A layer whose tar-split was removed is a difference on each engine: engines write one for each layer they unpack."""
    split_of(linked, 0).unlink()

    assert kinds(linked.image_report()) == {DifferenceKind.MISSING}


# ---- names, and consistent forgeries


def other_image(store: Store, tmp_path: Path) -> str:
    """Load another image under another name into a copy of Podman's store, and return its ID."""
    layers = [base(), middle(), top().replace(b"sleep", b"SLEEP")]
    archive(tmp_path / "other.tar", layers, "evil/app:1")
    storage = f"containers-storage:[overlay@{store.root}+{tmp_path}/run]localhost/evil/app:1"
    run("skopeo", "--insecure-policy", "copy", f"docker-archive:{tmp_path}/other.tar", storage).checked()
    return _only_new(store)


def _only_new(store: Store) -> str:
    records = json.loads((store.root / "overlay-images/images.json").read_bytes())
    (other,) = [record["id"] for record in records if record["id"] != store.image]
    return str(other)


def expecting(store: Store) -> ScrubRequest:
    digest = Digest("sha256", store.image)
    return ScrubRequest((NAME,), {NAME: Expectation(digest, Level.L1, "what was written down")})


def test_owners_changed_together_with_their_map_differ(podman: Store) -> None:
    """Owners changed together with Podman's list that explains them are found, with or without an expected image."""
    records = podman.root / "overlay-layers/layers.json"
    listed = json.loads(records.read_bytes())
    (record,) = [each for each in listed if not each.get("parent")]
    record |= {each: [{"container_id": 0, "host_id": 5000, "size": 60_000}] for each in ("uidmap", "gidmap")}
    records.write_text(json.dumps(listed))
    layer = podman.at("")
    given_to_others(layer, 5000)

    report = podman.image_report(expecting(podman))

    assert (report.status, report.differences) == (ReportStatus.UNKNOWN, ())
    assert "nothing outside the store confirms" in report.unknown[0]


def test_a_tag_moved_to_another_image_differs_from_an_expectation(podman: Store, tmp_path: Path) -> None:
    """A tag moved between two consistent images differs only from an expected image."""
    other = other_image(podman, tmp_path)
    names = podman.root / "overlay-images/images.json"
    records = json.loads(names.read_bytes())
    for record in records:
        record["names"] = [f"localhost/{NAME}"] if record["id"] == other else []
    names.write_text(json.dumps(records))

    alone = [each.status for each in podman.scrub()]
    report = podman.image_report(expecting(podman))

    assert alone == [ReportStatus.HOLDS, ReportStatus.HOLDS]
    assert report.status is ReportStatus.DIFFERS
    assert podman.image in report.differences[0].expected
    assert other in report.differences[0].got


def test_a_docker_name_without_an_image_differs(docker: Store) -> None:
    """A name in repositories.json that refers to no image is a difference, even without an expected image."""
    names = docker.root / "image/overlay2/repositories.json"
    names.write_text(names.read_text().replace(docker.image, "e" * 64))

    reports = docker.scrub()

    assert [each.kind for report in reports for each in report.differences] == [DifferenceKind.MISSING]


def test_a_containerd_name_without_content_differs(contained: Store) -> None:
    """A name in containerd's metadata whose digest has no blob is a difference."""
    (database,) = contained.root.glob("io.containerd.metadata.v1.bolt/meta.db")
    content = database.read_bytes()
    target = contained.image_report().id.encode()
    database.write_bytes(content.replace(b"digest" + target, b"digest" + b"sha256:" + b"e" * 64))

    report = contained.image_report()

    assert report.status is ReportStatus.DIFFERS
    assert DifferenceKind.MANIFEST in kinds(report)


def test_a_consistently_forged_store_differs_only_from_an_expectation(podman: Store, tmp_path: Path) -> None:
    """When files, checksums, digests, config and ID are forged consistently, level L0 finds nothing and L1 finds it."""
    other = other_image(podman, tmp_path)
    names = podman.root / "overlay-images/images.json"
    records = [record for record in json.loads(names.read_bytes()) if record["id"] == other]
    records[0]["names"] = [f"localhost/{NAME}"]
    names.write_text(json.dumps(records))

    unaware, aware = podman.image_report(), podman.image_report(expecting(podman))

    assert (unaware.status, unaware.level) == (ReportStatus.HOLDS, Level.L0)
    assert aware.status is ReportStatus.DIFFERS


def test_a_genuine_manifest_beside_a_forged_image_proves_nothing(podman: Store, tmp_path: Path) -> None:
    """A genuine manifest proves nothing unless it refers to this image's config."""
    genuine = (podman.root / "overlay-images" / podman.image / "manifest").read_bytes()
    other = other_image(podman, tmp_path)
    digest = Digest.of(genuine)
    key = base64.b64encode(f"manifest-{digest}".encode()).decode()
    (podman.root / "overlay-images" / other / f"={key}").write_bytes(genuine)
    wanted = ScrubRequest(
        ("localhost/evil/app:1",), {"localhost/evil/app:1": Expectation(digest, Level.L1, "a pin", of_manifest=True)}
    )

    report = podman.image_report(wanted)

    assert report.status is ReportStatus.DIFFERS


@pytest.mark.parametrize("expected", ["id", "manifest"])
def test_an_expected_image_is_proven(store: Store, expected: str) -> None:
    """An expected image is proven by its ID in every store, and by its manifest's digest in stores with manifests."""
    unaware = store.image_report()
    digest = Digest("sha256", store.image)
    if expected == "manifest":
        digest = Digest.parse(unaware.id) if "containerd" in store.name else digest
        if store.name == "podman":
            digest = Digest.of((store.root / "overlay-images" / store.image / "manifest").read_bytes())
    report = store.image_report(ScrubRequest((NAME,), {NAME: Expectation(digest, Level.L1, "what was written down")}))

    assert (report.status, report.level) == (ReportStatus.HOLDS, Level.L1)


def test_a_manifest_digest_proves_nothing_without_the_manifest(docker: Store) -> None:
    """Docker's own list of manifest digests proves nothing without the manifest."""
    wanted = ScrubRequest((NAME,), {NAME: Expectation(Digest("sha256", "a" * 64), Level.L1, "a pin", of_manifest=True)})

    report = docker.image_report(wanted)

    assert report.status is ReportStatus.UNKNOWN
    assert "--documents" in report.unknown[0]


@pytest.mark.parametrize(("says", "status"), [("true", ReportStatus.UNKNOWN), ("false", ReportStatus.HOLDS)])
def test_layers_of_fuse_overlayfs_could_not_be_checked(podman: Store, says: str, status: ReportStatus) -> None:
    """Layers of fuse-overlayfs, whose marks differ from the kernel's, could not be checked; Podman records its use."""
    (podman.root / "overlay/.has-mount-program").write_text(says)

    report = podman.image_report()

    assert (report.status, report.differences) == (status, ())


def test_a_store_of_another_driver_could_not_be_checked(docker: Store) -> None:
    """A store whose lists are under the name of an unsupported driver is never clean."""
    (docker.root / "image/overlay2").rename(docker.root / "image/btrfs")

    (report,) = docker.scrub()

    assert report.status is ReportStatus.UNKNOWN
    assert "btrfs" in report.unknown[0]


def test_a_store_renamed_to_another_driver_differs(docker: Store) -> None:
    """Lists that were moved to the name of the driver vfs refer to folders that this driver does not have."""
    (docker.root / "image/overlay2").rename(docker.root / "image/vfs")

    assert DifferenceKind.MISSING in kinds(docker.image_report())
