"""Docker's archives: old and new formats, damaged ones, and the written form."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from boltseal.files.named_files import FileMissing
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.transfer.archive import ArchiveSource, ArchiveTarget
from boltseal.transfer.compare import Sameness, compare, read_side
from boltseal.transfer.copy import Copier
from boltseal.transfer.protocols import ContentDamaged, LocationInvalid, LocationNotFound, LocationUnavailable, TagTaken
from tests.images import image, index
from tests.small_disk import small_disk
from tests.transfer.memory_source import MemorySource
from tests.transfer.registries import layout

NAME = "docker.io/shop/app:1.4.2"


def write(path: Path, files: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
    return path


def old_archive(path: Path, *, change: bytes = b"") -> Path:
    """Write an archive in Docker's format before OCI, whose second layer is a link to the first."""
    app = image("app")
    tar = gzip.decompress(app.layers[0].data)
    config = json.loads(app.config.data)
    config["rootfs"]["diff_ids"] *= 2
    listed = [{"Config": "c.json", "RepoTags": ["shop/app:1.4.2"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
    files = {"c.json": json.dumps(config).encode(), "manifest.json": json.dumps(listed).encode()}
    return write(path, files | {"a/layer.tar": tar + change}, {"b/layer.tar": "../a/layer.tar"})


async def test_an_old_archive_is_read_as_an_image(tmp_path: Path) -> None:
    """From an old archive's config and layers one manifest is made, the same every time."""
    old_archive(tmp_path / "old.tar")
    first = await ArchiveSource.open(tmp_path / "old.tar", tmp_path)
    second = await ArchiveSource.open(tmp_path / "old.tar", tmp_path)
    digest = await first.resolve(NAME)
    manifest = await first.manifest(digest)

    assert await second.resolve(None) == digest
    assert [layer.media_type for layer in manifest.layers] == ["application/vnd.oci.image.layer.v1.tar"] * 2
    assert b"".join([piece async for piece in first.blob(manifest.layers[1])])


async def test_a_layer_that_does_not_match_its_config_is_refused(tmp_path: Path) -> None:
    """A layer that was changed inside the archive is found by the config's diff_ids."""
    with pytest.raises(ContentDamaged, match="not the one its config names"):
        await ArchiveSource.open(old_archive(tmp_path / "old.tar", change=b"\0"), tmp_path)


async def test_writing_and_reading_keeps_the_digest(tmp_path: Path) -> None:
    """A written archive has the manifest, and names for old and new Docker versions; reading it keeps the digest."""
    app = image("app", layer_count=2)
    target = ArchiveTarget(tmp_path / "new.tar")
    await Copier(MemorySource(app), target).image("0", NAME)
    await target.close(complete=True)
    source = await ArchiveSource.open(tmp_path / "new.tar", tmp_path)
    with tarfile.open(tmp_path / "new.tar") as tar:
        listed = json.load(tar.extractfile("manifest.json") or io.BytesIO())

    assert str(await source.resolve(NAME)) == app.digest
    assert listed[0]["RepoTags"] == ["shop/app:1.4.2"]
    assert len(listed[0]["Layers"]) == 2


async def test_the_list_for_old_dockers_names_one_platform_of_an_index(tmp_path: Path) -> None:
    """An index's archive has all platforms, and the list for old Docker versions names one."""
    both = index(image("amd64"), image("arm64", architecture="arm64"))
    target = ArchiveTarget(tmp_path / "new.tar")
    await Copier(MemorySource(both), target).image("0", NAME)
    await target.close(complete=True)
    source = await ArchiveSource.open(tmp_path / "new.tar", tmp_path)

    assert len((await source.manifest(Digest.parse(both.digest))).manifests) == 2
    side = await read_side(source, await source.resolve(None))
    assert compare(side, side).sameness is Sameness.MANIFEST


async def test_a_failed_copy_leaves_nothing(tmp_path: Path) -> None:
    """A failed copy leaves no file, and an existing one unchanged."""
    (tmp_path / "old.tar").write_bytes(b"precious")
    with pytest.raises(TagTaken, match="--force"):
        ArchiveTarget(tmp_path / "old.tar")
    target = ArchiveTarget(tmp_path / "old.tar", force=True)
    await target.close(complete=False)

    assert [name for _, _, names in os.walk(tmp_path) for name in names] == ["old.tar"]
    assert (tmp_path / "old.tar").read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"no tar at all" * 100, "no tar archive"), (b"", "no tar archive")],
)
async def test_a_file_that_is_no_archive_is_an_error(tmp_path: Path, content: bytes, words: str) -> None:
    """A file that is no archive is an error, without a traceback or an empty image."""
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(LocationInvalid, match=words):
        await ArchiveSource.open(tmp_path / "x.tar", tmp_path)


async def test_an_archive_without_images_is_an_error(tmp_path: Path) -> None:
    """A tar archive without images, or with missing members, is an error."""
    with pytest.raises(LocationInvalid, match="holds no image"):
        await ArchiveSource.open(write(tmp_path / "x.tar", {"a": b"b"}), tmp_path)
    listed = json.dumps([{"Config": "../../etc/passwd", "Layers": []}]).encode()
    with pytest.raises(LocationInvalid, match="does not hold it"):
        await ArchiveSource.open(write(tmp_path / "y.tar", {"manifest.json": listed}), tmp_path)
    with pytest.raises(FileMissing):
        await ArchiveSource.open(tmp_path / "nowhere.tar", tmp_path)


async def test_names_that_lead_out_of_the_archive_are_ignored(tmp_path: Path) -> None:
    """Of a layout in an archive only plain blobs with matching digests are read, so no name leads out of it."""
    files = {
        "oci-layout": b"{}",
        "index.json": b'{"schemaVersion":2,"manifests":[]}',
        "../evil": b"x",
        "blobs/sha256/../../evil": b"x",
    }
    folder = tmp_path / "in"
    folder.mkdir()
    await ArchiveSource.open(write(tmp_path / "x.tar", files), folder)

    assert "evil" not in {name for _, _, names in os.walk(tmp_path) for name in names}


async def test_a_layout_names_its_images(tmp_path: Path) -> None:
    """With one image in a layout no name is needed; with two the error lists them."""
    one, two = image("one"), image("two")
    await Copier(MemorySource(one), layout(tmp_path)).image("0", "one")
    alone = await layout(tmp_path).resolve(None)
    await Copier(MemorySource(two), layout(tmp_path)).image("0", "two")

    assert str(alone) == one.digest
    with pytest.raises(LocationNotFound, match="there is: one, two"):
        await layout(tmp_path).resolve(None)


@pytest.mark.parametrize(
    ("index", "words"),
    [
        (b"[]", "not an index of images"),
        (b"{", "not an index of images"),
        (b'{"manifests":[3]}', "not an index of images"),
        (b"[" * 100_000, "not an index of images"),
        (b" " * (8 * 2**20 + 1), "too large"),
    ],
)
async def test_an_archive_with_a_broken_index_is_an_error(tmp_path: Path, index: bytes, words: str) -> None:
    """A broken index in an archive causes neither a traceback nor unbounded memory."""
    archive = write(tmp_path / "x.tar", {"oci-layout": b"{}", "index.json": index})
    with pytest.raises(LocationInvalid, match=words):
        await ArchiveSource.open(archive, tmp_path)


async def test_an_old_archive_with_a_list_too_deep_is_an_error(tmp_path: Path) -> None:
    """Deep nesting of an old archive's list is an error, not a traceback."""
    with pytest.raises(LocationInvalid, match="not what docker save writes"):
        await ArchiveSource.open(write(tmp_path / "x.tar", {"manifest.json": b"[" * 100_000}), tmp_path)


@pytest.mark.parametrize("what", ["index.json", "manifest", "blob"])
async def test_a_pipe_in_a_layout_does_not_block(tmp_path: Path, what: str) -> None:
    """A pipe without a writer inside a layout does not block."""
    app = image("app")
    place = layout(tmp_path)
    await Copier(MemorySource(app), place).image("0", "app")
    manifest = await place.manifest(Digest.parse(app.digest))
    digest = {"manifest": Digest.parse(app.digest), "blob": manifest.layers[0].digest}.get(what)
    path = tmp_path / "index.json" if digest is None else tmp_path / "blobs/sha256" / digest.hex
    path.unlink()
    os.mkfifo(path)

    with pytest.raises(LocationInvalid, match="is not a regular file"):
        await Copier(place, layout(tmp_path / "other")).image("app", "1")


async def test_an_oversized_index_of_a_layout_is_not_read(tmp_path: Path) -> None:
    """A sparse index file of a tebibyte is refused by its size."""
    (tmp_path / "oci-layout").write_text("{}")
    with (tmp_path / "index.json").open("wb") as file:
        file.truncate(2**40)

    with pytest.raises(ContentDamaged, match=r"index\.json has more than 8 MiB"):
        await layout(tmp_path).resolve(None)


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("there", ["pipe", "link"])
def test_an_archive_replaces_no_device_and_no_link(tmp_path: Path, there: str, force: bool) -> None:
    """An archive does not replace a device or a link, such as /dev/stdout given by root."""
    path = tmp_path / "x.tar"
    if there == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("gone")
    before = path.lstat()

    with pytest.raises((LocationInvalid, TagTaken), match=r"is not a regular file|exists already"):
        ArchiveTarget(path, force=force)

    after = path.lstat()  # not the whole: reading a link may count as its last access
    assert (after.st_ino, after.st_mode, after.st_ctime_ns) == (before.st_ino, before.st_mode, before.st_ctime_ns)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
async def test_a_full_disk_is_an_error_and_nothing_is_left(tmp_path: Path) -> None:
    """On a full disk, the partial archive is removed."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(4):
            yield bytes(2**20)

    with small_disk(tmp_path / "small", "size=2m") as folder:
        target = ArchiveTarget(folder / "x.tar")
        with pytest.raises(LocationUnavailable, match="can't be written: No space left"):
            await target.put_blob(Descriptor("a/b", Digest.of(bytes(2**22)), 2**22), body)
        await target.close(complete=False)

        assert list(folder.iterdir()) == []
