"""Packages and files of an image by its layers and SBOMs, also of hostile images."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.commands.contents_diff import contents_diff
from boltseal.commands.image_contents import ImageContents, ReadLimits, read_contents
from boltseal.errors import Unavailable
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.manifest import Manifest, parse_manifest
from boltseal.transfer.inspect import inspect
from boltseal.transfer.packages.package_list import Package, PackageChange
from tests.images import OCI_LAYER, Blob, Document, digest_of, gzipped, index
from tests.packaged_images import DPKG, SPDX_TYPE, dpkg, image_of, layer_of, rpm, sbom_of, spdx
from tests.tar_images import Files, hard_link, symlink, tar_of
from tests.transfer.memory_source import MemorySource

BASE = layer_of({DPKG: dpkg(bash="5.1", openssl="3.0.1"), "etc/a": b"a", "etc/b": b"b", "opt/app/x": b"x"})


class WithReferrers(MemorySource):
    """A source whose referrers are its other documents."""

    def __init__(self, image: Document, *referrers: Document) -> None:
        super().__init__(image, *referrers)
        self._subject = image.digest
        self._referrers = referrers

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        return tuple(
            Descriptor(
                each.media_type,
                Digest.parse(each.digest),
                len(each.raw),
                artifact_type=parse_manifest(each.raw, None).artifact_type,
            )
            for each in self._referrers
            if str(digest) == self._subject
        )


class Unreachable(WithReferrers):
    """A source that does not return its referrers' manifests, nor the list of the referrers of one image."""

    def __init__(self, image: Document, *referrers: Document, unlisted: str = "") -> None:
        super().__init__(image, *referrers)
        self._lost = {each.digest for each in referrers}
        self._unlisted = unlisted

    async def manifest(self, digest: Digest) -> Manifest:
        if str(digest) in self._lost:
            raise Unavailable("the registry does not answer")
        return await super().manifest(digest)

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        if str(digest) == self._unlisted:
            raise Unavailable("the registry does not answer")
        return await super().referrers(digest)


def linked_layer(files: Files) -> Blob:
    """Return a layer with links."""
    return Blob(gzipped(tar_of(files)), OCI_LAYER)


async def contents(image: Document, *referrers: Document, most_bytes: int = 10**9) -> ImageContents:
    """Return the contents of an image."""
    source = WithReferrers(image, *referrers)
    return await read_contents(
        source, await inspect(source, Digest.parse(image.digest), None), limits=ReadLimits(most_bytes)
    )


async def test_upper_layers_replace_and_remove_files() -> None:
    """A file of an upper layer replaces that of a lower one; whiteouts remove a file, and the content of a folder."""
    upper = layer_of(
        {
            "./etc/b": b"other",
            "etc/.wh.a": b"",
            "opt/.wh..wh..opq": b"",
            "opt/new": b"",
            DPKG: dpkg(bash="5.2"),
        }
    )
    found = await contents(image_of(BASE, upper))

    assert sorted(found.files or {}) == [b"etc/b", b"opt/new", DPKG.encode()]
    assert found.layers.packages == (Package("deb", "bash", "5.2"),)
    assert found.sbom.packages is None


async def test_a_file_in_place_of_a_folder_removes_its_content() -> None:
    """A file that replaces a folder removes what was in it, and with it a package database."""
    found = await contents(image_of(BASE, layer_of({"var/lib": b"no folder"})))

    assert b"var/lib" in (found.files or {})
    assert DPKG.encode() not in (found.files or {})
    assert found.layers == (None, "it has no package database")


async def test_a_folder_in_place_of_a_file_removes_it() -> None:
    """A folder that replaces a file, here a package database, removes it."""
    found = await contents(image_of(BASE, layer_of({DPKG: None})))

    assert DPKG.encode() not in (found.files or {})
    assert found.layers == (None, "it has no package database")


async def test_a_linked_database_is_read() -> None:
    """A package database that an upper layer makes a hard or symbolic link of another one has the packages of that one."""
    for link in (hard_link(DPKG), symlink(f"/{DPKG}")):
        found = await contents(image_of(BASE, linked_layer({f"{DPKG}.d/base": link})))

        assert found.layers.packages == (Package("deb", "bash", "5.1"), Package("deb", "openssl", "3.0.1"))


@pytest.mark.parametrize("target", ["nowhere", "/etc/a", "status"])
async def test_a_database_that_is_a_link_elsewhere_could_not_be_checked(target: str) -> None:
    """A package database that an upper layer replaces by a link to no database is a reason, and never the list below it."""
    found = await contents(image_of(BASE, linked_layer({DPKG: symlink(target)})))

    assert found.layers.packages is None
    assert f"/{DPKG} can't be read" in found.layers.reason
    assert found.files is not None


async def test_an_unreadable_referrer_is_not_a_missing_sbom() -> None:
    """If the registry does not answer for an attached SBOM, that is the reason, and not that none is attached."""
    image = image_of(BASE)
    source = Unreachable(image, sbom_of(image, spdx(left="1")))
    found = await read_contents(source, await inspect(source, Digest.parse(image.digest), None))

    assert found.sbom == (None, "its SBOM can't be read: the registry does not answer")


async def test_unlisted_referrers_are_not_a_missing_sbom() -> None:
    """If the referrers of an index's image can't be listed, that is the reason, and not that no SBOM is attached."""
    image = image_of(BASE)
    whole = index(image, manifests=[image.descriptor(platform={"os": "linux", "architecture": "amd64"})])
    source = Unreachable(Document(whole.raw, whole.media_type, (), (image,)), unlisted=image.digest)
    found = await read_contents(source, await inspect(source, Digest.parse(whole.digest), None))

    assert found.sbom.packages is None
    assert found.sbom.reason.startswith("could not check which SBOMs are attached to it")


async def test_an_attached_sbom_gives_the_packages() -> None:
    """A referrer with an SBOM gives the packages, and the layers give theirs beside it."""
    image = image_of(BASE)
    found = await contents(image, sbom_of(image, spdx(left="1")))

    assert found.sbom.packages == (Package("npm", "left", "1"),)
    assert found.layers.packages == (Package("deb", "bash", "5.1"), Package("deb", "openssl", "3.0.1"))


async def test_a_damaged_sbom_is_reported() -> None:
    """An SBOM that can't be read is reported, and the package databases are read nevertheless."""
    image = image_of(BASE)
    found = await contents(image, sbom_of(image, b"{}"))

    assert "its SBOM can't be read" in found.sbom.reason
    assert found.layers.packages is not None


async def test_buildkits_attestation_is_found_in_the_index() -> None:
    """BuildKit's attestation in the index gives the packages of the image that it names."""
    image = image_of(BASE)
    raw = b'{"predicateType": "https://spdx.dev/Document", "predicate": ' + spdx(left="2") + b"}"
    attested = Blob(raw, "application/vnd.in-toto+json")
    attestation = image_of(
        layer_of({}),
        layers=[attested.descriptor(annotations={"in-toto.io/predicate-type": "https://spdx.dev/Document"})],
    )
    attestation = Document(attestation.raw, attestation.media_type, (attestation.config, attested))
    entry = attestation.descriptor(
        platform={"os": "unknown", "architecture": "unknown"},
        annotations={"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image.digest},
    )
    whole = index(image, manifests=[image.descriptor(platform={"os": "linux", "architecture": "amd64"}), entry])
    found = await contents(Document(whole.raw, whole.media_type, (), (image, attestation)))

    assert found.sbom.packages == (Package("npm", "left", "2"),)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (image_of(BASE, diff_ids=["sha256:" + "0" * 64]), "has not the content that the config states"),
        (image_of(Blob(b"\x1f\x8b damaged", OCI_LAYER), diff_ids=["sha256:" + "0" * 64]), "gzip"),
        (image_of(BASE, diff_ids=["sha256:" + "0" * 64] * 2), "describes its layers"),
        (image_of(Blob(BASE.data, "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")), "foreign layer"),
    ],
    ids=["other tar", "damaged", "more diff_ids", "foreign"],
)
async def test_layers_that_can_not_be_read_are_reported(image: Document, words: str) -> None:
    """Layers that are damaged, are not those of the config, or are not in the registry give no list, but a reason."""
    found = await contents(image)

    assert found.files is None
    assert found.layers.packages is None
    assert words in found.layers.reason
    assert words in found.files_reason


@given(st.binary(max_size=2000), st.booleans())
def test_any_bytes_as_a_layer_are_a_result(raw: bytes, compressed: bool) -> None:
    """Any bytes as a layer give a list of files or a reason, and no exception."""
    blob = Blob(gzipped(raw) if compressed else raw, OCI_LAYER)
    found = asyncio.run(contents(image_of(blob, diff_ids=[digest_of(raw)])))

    assert (found.files is None) == bool(found.files_reason)


async def test_downloads_are_limited() -> None:
    """An image that is larger than the limit is not downloaded, and the reason has both sizes."""
    found = await contents(image_of(BASE), most_bytes=10)

    assert found.files is None
    assert "at most 10 are read" in found.files_reason


async def test_a_hostile_database_is_no_list() -> None:
    """A package database that can't be read is a reason and no list, and the files are there."""
    found = await contents(image_of(layer_of({"var/lib/rpm/rpmdb.sqlite": rpm(b"x")})))

    assert found.layers.packages is None
    assert "damaged header" in found.layers.reason
    assert found.files is not None


async def test_a_path_out_of_the_image_is_a_path_in_it() -> None:
    """A path with `..` or from the root is one inside of the image: nothing is written to the disk."""
    found = await contents(image_of(layer_of({"../../etc/passwd": b"x", "/abs": b"y"})))

    assert sorted(found.files or {}) == [b"abs", b"etc/passwd"]


async def test_lists_of_different_sources_are_not_compared() -> None:
    """Packages are compared by SBOMs only if both images have one, else by the layers of both, else not at all."""
    old, new = image_of(BASE), image_of(BASE, layer_of({DPKG: dpkg(bash="5.2", openssl="3.0.1")}))
    bare = await contents(image_of(layer_of({"x": b""})))
    with_sboms = contents_diff(
        await contents(old, sbom_of(old, spdx(left="1"))), await contents(new, sbom_of(new, spdx(left="2"), SPDX_TYPE))
    )
    mixed = contents_diff(await contents(old, sbom_of(old, spdx(left="1"))), await contents(new))
    none = contents_diff(await contents(old), bare)

    assert with_sboms.packages is not None
    assert with_sboms.packages.changed == (PackageChange("npm", "left", "1", "2"),)
    assert mixed.packages is not None
    assert (mixed.origin, mixed.packages.changed) == (
        "package databases in the layers",
        (PackageChange("deb", "bash", "5.1", "5.2"),),
    )
    assert (none.packages, none.packages_reason) == (None, "the new image: it has no package database")
    assert none.files is not None


async def test_databases_that_a_layer_replaced_are_not_kept() -> None:
    """Of a database that each layer replaces, two are in memory at most: that of the image so far and that of the next layer."""
    database = b"".join(
        b"Package: p\nStatus: install ok installed\nVersion: 1\nDescription: %d\n\n" % n for n in range(8_000)
    )
    layers = [layer_of({DPKG: database + b"Package: last\nVersion: %d\n" % number}) for number in range(12)]
    peaks_bytes = []
    for count in (3, 12):
        tracemalloc.start()
        found = await contents(image_of(*layers[:count]))
        peaks_bytes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.layers.packages == (Package("deb", "last", f"{count - 1}"), Package("deb", "p", "1"))

    assert peaks_bytes[0] < 5 * len(database)
    assert peaks_bytes[1] < peaks_bytes[0] + len(database) // 2  # nine more, if all were kept
