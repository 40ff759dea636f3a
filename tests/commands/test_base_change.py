"""What changed in a base and whether it reaches an image, by real layers: own ones overwrite, delete, upgrade and copy."""

from __future__ import annotations

import asyncio
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from boltseal.commands.base_change import BaseChange, BaseMove, ExplainedBase, ImageLayers
from boltseal.commands.image_contents import read_contents
from boltseal.oci.descriptor import Descriptor
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from boltseal.policy.base_change_reach import PartState, Reach
from boltseal.project.bases.changes import SettingChange
from boltseal.transfer.inspect import inspect
from tests.images import OCI_LAYER, Blob, Document, gzipped
from tests.packaged_images import APK, DPKG, SPDX_TYPE, apk, cyclonedx, dpkg, image_of, layer_of, sbom_of
from tests.tar_images import Files, hard_link, symlink, tar_of
from tests.transfer.memory_source import MemorySource

PATHS = ("a", "d/b", "d/c", "d/e/f")
MOVE = BaseMove(Reference.parse("reg.test/base/os:1"), Digest.of(b"was"), Digest.of(b"now"), "linux/amd64")


class WithSboms(MemorySource):
    """A source of one image whose referrers are its other documents."""

    def __init__(self, image: Document, *sboms: Document) -> None:
        super().__init__(image, *sboms)
        self._image, self._sboms = image, sboms

    async def referrers(self, digest: Digest) -> tuple[Descriptor, ...]:
        if str(digest) != self._image.digest:
            return ()
        return tuple(
            Descriptor(each.media_type, Digest.parse(each.digest), len(each.raw), artifact_type=SPDX_TYPE)
            for each in self._sboms
        )


def files_layer(files: Files) -> Blob:
    """Return a layer with files and links."""
    return Blob(gzipped(tar_of(files)), OCI_LAYER)


async def layers_of(image: Document, *sboms: Document, base_layers: Sequence[str] = ()) -> ImageLayers:
    """Read an image as `outdated --explain` does."""
    source = WithSboms(image, *sboms)
    inspected = await inspect(source, Digest.parse(image.digest), None)
    contents = await read_contents(source, inspected, base_layers=base_layers)
    return ImageLayers(contents, () if inspected.config is None else inspected.config.diff_ids)


def explained(
    was: Document,
    now: Document,
    image: Document,
    *,
    sboms: Sequence[Document] = (),
    changed: Sequence[SettingChange] = (),
    own: Sequence[SettingChange] = (),
) -> ExplainedBase:
    """Explain an image. `sboms`: of the former base, of the new one, and of the image."""

    async def run() -> ExplainedBase:
        attached: list[tuple[Document, ...]] = [(each,) for each in sboms] or [(), (), ()]
        old_sboms, new_sboms, own_sboms = attached
        old = await layers_of(was, *old_sboms)
        change = BaseChange(MOVE, old, await layers_of(now, *new_sboms), tuple(changed))
        return change.explain(await layers_of(image, *own_sboms, base_layers=change.diff_ids), own)

    return asyncio.run(run())


Steps = list[tuple[str, str]]
CONTENTS = st.dictionaries(st.sampled_from(PATHS), st.sampled_from(["1", "2", "3"]), max_size=len(PATHS))
OWN_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "delete", "folder", "copy", "copy over", "upgrade", "mode"]), st.sampled_from(PATHS)
    ),
    max_size=4,
)


class OwnBuild:
    """A build on a base: its layers, the files of the image that it makes, and which of them its own steps wrote."""

    def __init__(self, steps: Steps, base: dict[str, str], new: dict[str, str]) -> None:
        """Run the steps, each of which makes a layer, or nothing. `new`: the files of the new base, which an upgrade writes."""
        self.layers: list[Blob] = []
        self.files = dict(base)
        self.written: set[str] = set()
        for number, (what, path) in enumerate(steps):
            self._step(what, path, number, new)

    def _step(self, what: str, path: str, number: int, new: dict[str, str]) -> None:
        files = self.files
        if what == "write":
            self._write(path, f"own {number}")
        elif what == "delete" and path in files:
            folder, _, name = path.rpartition("/")
            self.layers.append(files_layer({f"{folder}/.wh.{name}" if folder else f".wh.{name}": ""}))
            del files[path]
        elif what == "folder" and any(each.startswith("d/") for each in files):
            self.layers.append(files_layer({".wh.d": ""}))
            self.files = {each: content for each, content in files.items() if not each.startswith("d/")}
        elif what == "copy" and path in files:
            self._write(f"copy{number}", files[path])
        elif what == "copy over" and path in files:
            self._write(PATHS[PATHS.index(path) - 1], files[path])
        elif what == "upgrade" and path in new:
            self._write(path, new[path])
        elif what == "mode" and path in files:
            self._write(path, files[path], 0o755)

    def _write(self, path: str, content: str, mode: int = 0o644) -> None:
        self.layers.append(layer_of({path: content.encode()}, mode))
        self.files[path] = content
        self.written.add(path)


def may_be_copies(build: OwnBuild, was: dict[str, str], now: dict[str, str]) -> list[str]:
    """Return the files that a build's own steps wrote and that have the former content of a changed file at another path."""
    changed = {path: content for path, content in was.items() if now.get(path) != content}
    return [
        path
        for path in build.written & build.files.keys()
        if any(each != path and content == build.files[path] for each, content in changed.items())
    ]


@settings(max_examples=150, deadline=None)
@given(CONTENTS, CONTENTS, OWN_STEPS)
@example({"a": "1", "d/b": "1"}, {"a": "2", "d/b": "1"}, [("copy", "a"), ("write", "a")])
@example({"d/b": "1"}, {"a": "2", "d/b": "1"}, [("copy", "a"), ("write", "a")])
@example({"a": "1"}, {"d/b": "1"}, [("copy", "a"), ("delete", "a"), ("folder", "a")])
@example({"a": "1", "d/e/f": "2"}, {"a": "2", "d/e/f": "1"}, [("copy over", "a"), ("write", "a")])
@example({"a": "1", "d/b": "1", "d/c": "1"}, {"d/b": "1", "d/c": "1"}, [("mode", "d/c"), ("delete", "a")])
def test_a_rebuild_changes_nothing_if_the_change_does_not_reach(
    was: dict[str, str], now: dict[str, str], steps: Steps
) -> None:
    """Without reach a rebuild changes no file, with it a file is as before the change; doubt needs a reason in base or image."""
    keep = {"keep": "same"}
    was, now = was | keep, now | keep
    build, rebuild = OwnBuild(steps, was, now), OwnBuild(steps, now, now)
    base = files_layer(was)
    found = explained(image_of(base), image_of(files_layer(now)), image_of(base, *build.layers))
    former = {path for path in PATHS if was.get(path) != now.get(path) and build.files.get(path) == was.get(path)}

    if found.reach is Reach.DOES_NOT:
        assert build.files == rebuild.files
    elif found.reach is Reach.REACHES:
        assert former or found.files.copies
    else:
        added, folders = now.keys() - was.keys(), folders_of(was) != folders_of(now)
        assert was == now or added or folders or may_be_copies(build, was, now)


def folders_of(files: dict[str, str]) -> set[str]:
    return {path.rpartition("/")[0] for path in files}


BASE = {DPKG: dpkg(bash="5.1", openssl="3.0.1"), "usr/lib/libssl.so": b"3.0.1", "etc/keep": b"same"}
FIXED = {DPKG: dpkg(bash="5.1", openssl="3.0.2"), "usr/lib/libssl.so": b"3.0.2", "etc/keep": b"same"}
WAS, NOW = image_of(layer_of(BASE)), image_of(layer_of(FIXED))


def on_base(*own: Files) -> Document:
    return image_of(layer_of(BASE), *(files_layer(each) for each in own))


def test_an_image_with_the_former_package_is_reached() -> None:
    """An image that adds its own files has the former version of the changed package, and the change reaches it."""
    found = explained(WAS, NOW, on_base({"app": "x"}))

    assert found.reach is Reach.REACHES
    assert found.reason == "it has 1 of 1 changed packages and 2 of 2 changed files as before the change"
    [package] = found.packages.packages
    assert (package.change.name, package.own, package.state) == ("openssl", "3.0.1", PartState.FORMER)
    assert found.files.former == ("/usr/lib/libssl.so", f"/{DPKG}")


@pytest.mark.parametrize("version", ["3.0.2", "3.0.3"])
def test_an_own_upgrade_is_not_reached(version: str) -> None:
    """An image whose own `apt-get upgrade` installed the fixed version or a later one is not reached by the change."""
    found = explained(
        WAS, NOW, on_base({DPKG: dpkg(bash="5.1", openssl=version, own="1"), "usr/lib/libssl.so": version})
    )

    assert found.reach is Reach.DOES_NOT
    assert [each.state for each in found.packages.packages] == [PartState.NEW]


def test_an_own_upgrade_to_an_older_version_is_reached() -> None:
    """An image that was upgraded to a version between the two of the base still lacks the fix."""
    now = image_of(layer_of(FIXED | {DPKG: dpkg(bash="5.1", openssl="3.0.9"), "usr/lib/libssl.so": b"3.0.9"}))
    found = explained(WAS, now, on_base({DPKG: dpkg(bash="5.1", openssl="3.0.2"), "usr/lib/libssl.so": "3.0.2"}))

    assert found.reach is Reach.REACHES


def test_an_own_version_of_apk_is_not_compared() -> None:
    """Which of two other versions of an Alpine package is newer is not known, and so is whether the change reaches."""
    images = [
        image_of(layer_of({APK: apk(musl=version), "lib/libc.so": version.encode()})) for version in ("1.2.3", "1.2.4")
    ]
    image = image_of(
        layer_of({APK: apk(musl="1.2.3"), "lib/libc.so": b"1.2.3"}),
        layer_of({APK: apk(musl="1.2.5"), "lib/libc.so": b"1.2.5"}),
    )
    found = explained(images[0], images[1], image)

    assert found.reach is Reach.UNKNOWN
    assert "other versions of changed packages" in found.reason


def test_a_deleted_package_is_not_reached() -> None:
    """An image whose own layers delete the changed package and its files is not reached."""
    found = explained(WAS, NOW, on_base({DPKG: dpkg(bash="5.1"), "usr/lib/.wh.libssl.so": ""}))

    assert found.reach is Reach.DOES_NOT
    assert found.files.counts == {PartState.REPLACED: 1, PartState.GONE: 1}


MOVED = image_of(layer_of(FIXED | {"etc/keep": b"3.0.1"}))
"""A new base that has the content of the former file in another place."""
UPGRADED: Files = {DPKG: dpkg(bash="5.1", openssl="3.0.2"), "usr/lib/libssl.so": "3.0.2"}


def upgraded(*own: Files) -> Document:
    """Return an image whose own layers write files, and then upgrade the changed package."""
    return on_base(*own, UPGRADED)


@pytest.mark.parametrize("own", [{"opt/ssl": "3.0.1"}, {"opt/ssl": hard_link("usr/lib/libssl.so")}])
def test_a_copy_whose_content_the_new_base_has_elsewhere_could_not_be_checked(own: Files) -> None:
    """An own file with the content of a changed file is doubt if the new base has that content in another place."""
    found = explained(WAS, MOVED, upgraded({**own, "etc/.wh.keep": ""}))

    assert found.reach is Reach.UNKNOWN
    assert "one of its own files may be a copy of a changed one" in found.reason
    assert found.reason.endswith(": /opt/ssl")


def test_own_layers_that_leave_a_content_of_the_base_alone_make_no_doubt() -> None:
    """A file that an image has from its base is no copy, though a changed file of the base had the same content."""
    was, now = ({**base, "etc/empty": b"", "etc/other": other} for base, other in ((BASE, b""), (FIXED, b"x")))
    plain, written = (
        image_of(layer_of(was), files_layer({**UPGRADED, "etc/other": "x"}), *(files_layer(each) for each in own))
        for own in ([], [{"etc/empty": ""}])
    )
    found = [explained(image_of(layer_of(was)), image_of(layer_of(now)), each).reach for each in (plain, written)]

    assert found == [Reach.DOES_NOT, Reach.UNKNOWN]


def test_a_link_with_a_former_target_could_not_be_checked() -> None:
    """A symbolic link with the target of a changed link is doubt, because it may be a copy of it or be made anew."""
    was, now = (files_layer({"bin/sh": symlink(target), "bin/a": "1", "bin/b": "1"}) for target in ("/bin/a", "/bin/b"))
    image = image_of(was, files_layer({"own/sh": symlink("/bin/a"), "bin/sh": symlink("/bin/b")}))
    found = explained(image_of(was), image_of(now), image)

    assert found.reach is Reach.UNKNOWN
    assert "/own/sh" in found.reason


def test_a_file_that_only_the_new_base_has_could_not_be_checked() -> None:
    """If the new base adds a file, an own copy of its folder would have it after a rebuild, and no file of the image says so."""
    found = explained(WAS, image_of(layer_of(FIXED | {"usr/lib/new.so": b"n"})), upgraded({"usr/lib/new.so": "n"}))

    assert found.reach is Reach.UNKNOWN
    assert found.reason == "the new base adds files that its own build may copy, such as /usr/lib/new.so"


@pytest.mark.parametrize(("old", "new"), [(("opt",), ()), ((), ("opt",))])
def test_a_folder_of_one_base_could_not_be_checked(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    """An image that has or lacks an empty folder as the former base does is not the same after a rebuild."""
    was, now = (
        files_layer({**{path: content.decode() for path, content in base.items()}, **{f"{each}/": "" for each in more}})
        for base, more in ((BASE, old), (FIXED, new))
    )
    found = explained(image_of(was), image_of(now), image_of(was, files_layer(UPGRADED)))

    assert found.reach is Reach.UNKNOWN
    assert "a folder /opt" in found.reason


@pytest.mark.parametrize("link", [hard_link("usr/lib/libssl.so"), symlink("/usr/lib/libssl.so")])
def test_a_link_to_a_former_file_is_reached(link: tarfile.TarInfo) -> None:
    """An image that adds a link to a changed file still has the former file."""
    found = explained(WAS, NOW, on_base({"opt/ssl": link}))

    assert found.reach is Reach.REACHES


def test_a_copy_of_a_former_file_reaches_an_image_of_another_base() -> None:
    """A file that a build copied from the base into an image of other layers is a former one, under any path."""
    found = explained(WAS, NOW, image_of(files_layer({"app/ssl": "3.0.1", "app/own": "x"})))

    assert found.reach is Reach.REACHES
    assert (found.files.former, found.files.copies) == (("/app/ssl",), 1)


def test_an_image_of_unchanged_files_is_not_reached() -> None:
    """An image that only has copies of files which both bases have is not reached by the change."""
    found = explained(WAS, NOW, image_of(files_layer({"app/keep": "same"})))

    assert found.reach is Reach.DOES_NOT


def test_an_image_of_other_layers_and_files_could_not_be_checked() -> None:
    """A program may have been compiled from changed files, so an image of other layers with files of its own is doubt."""
    found = explained(WAS, NOW, image_of(files_layer({"app/own": "x"})))

    assert found.reach is Reach.UNKNOWN
    assert "does not begin with the layers of the former base" in found.reason


def test_sboms_count_if_all_three_images_have_one() -> None:
    """With an SBOM of the former base, the new base and the image, packages are compared by these."""
    image = on_base({"app": "x"})
    attached = [
        sbom_of(each, cyclonedx(left=version), SPDX_TYPE)
        for each, version in ((WAS, "1.0"), (NOW, "1.1"), (image, "1.0"))
    ]
    found = explained(WAS, NOW, image, sboms=attached)

    assert found.packages.origin == "SBOMs attached to the images"
    assert [(row.change.name, row.own) for row in found.packages.packages] == [("left", "1.0")]


def test_a_setting_that_the_image_inherits_reaches_it() -> None:
    """A change of settings only reaches an image that has the former value, and no image with its own."""
    base = image_of(layer_of(BASE))
    change = SettingChange("ENV V", "1", "2")
    inherits = explained(base, base, on_base(), changed=[change], own=[change])
    own = explained(base, base, on_base(), changed=[change], own=[SettingChange("ENV V", "9", "2")])
    same = explained(base, base, on_base(), changed=[change])

    assert [each.reach for each in (inherits, own, same)] == [Reach.REACHES, Reach.DOES_NOT, Reach.DOES_NOT]


@pytest.mark.parametrize(
    ("change", "own", "reason"),
    [
        (
            SettingChange("ENV PATH", "/usr/bin", "/usr/bin:/opt/bin"),
            SettingChange("ENV PATH", "/app:/usr/bin", "/usr/bin:/opt/bin"),
            "its ENV PATH may contain the former value of ENV PATH",
        ),
        (
            SettingChange("ENV V", "16.1", "16.2"),
            SettingChange("ENV URL", "https://example.com/16.1.tar", ""),
            "its ENV URL may contain the former value of ENV V",
        ),
    ],
)
def test_a_setting_that_contains_a_former_one_could_not_be_checked(
    change: SettingChange, own: SettingChange, reason: str
) -> None:
    """An own setting in which a changed variable may be expanded is another one after a rebuild."""
    replaced = [own] if own.what == change.what else [own, SettingChange(change.what, "9", change.now)]
    found = explained(WAS, NOW, upgraded(), changed=[change], own=replaced)

    assert (found.reach, found.reason) == (Reach.UNKNOWN, reason)


def test_only_a_folders_mode_changed() -> None:
    """A base that only changed the mode of a folder reaches an image that has the folder as before."""
    folder = tarfile.TarInfo()
    folder.type, folder.mode = tarfile.DIRTYPE, 0o700
    was, now = files_layer({"d/": "", "x": "1"}), files_layer({"d/": folder, "x": "1"})
    found = explained(image_of(was), image_of(now), image_of(was, files_layer({"y": ""})))

    assert (found.reach, found.files.former) == (Reach.REACHES, ("/d",))


def test_a_damaged_image_could_not_be_checked() -> None:
    """An image whose layers are not those that its config states is doubt, with the reason, for any of the three images."""
    damaged = image_of(layer_of(BASE), diff_ids=[f"sha256:{'0' * 64}"])
    for images in ((damaged, NOW, on_base()), (WAS, damaged, on_base()), (WAS, NOW, damaged)):
        found = explained(images[0], images[1], images[2])

        assert found.reach is Reach.UNKNOWN
        assert "has not the content that the config states" in found.reason


def own_package(kind: str) -> bytes:
    """Return the paragraph of a package that an image's own layers install."""
    return (
        b"\nPackage: own-app\nStatus: install ok installed\nVersion: 1\n"
        if kind == "deb"
        else b"\nP:own-app\nV:1-r0\n\n"
    )


def test_the_package_database_of_a_real_debian() -> None:
    """With the database of dpkg on this machine, a fix of bash reaches an image, unless it upgraded bash itself."""
    status = Path("/var/lib/dpkg/status").read_bytes()
    found = re.search(rb"^Package: bash\n(?:.+\n)*?Version: (.+)\n", status, re.MULTILINE)
    assert found is not None
    fixed = status[: found.end(1)] + b"+fix1" + status[found.end(1) :]
    was, now = (layer_of({DPKG: each}) for each in (status, fixed))
    images = [image_of(was, layer_of({DPKG: each + own_package("deb")})) for each in (status, fixed)]
    reached, upgraded = (explained(image_of(was), image_of(now), image) for image in images)
    version = found[1].decode()

    assert reached.reach is Reach.REACHES
    assert [tuple(row.change) for row in reached.packages.packages] == [("deb", "bash", version, f"{version}+fix1")]
    assert (upgraded.reach, dict(upgraded.packages.counts)) == (Reach.DOES_NOT, {PartState.NEW: 1})


ALPINE = b"""C:Q1qKcZ+j23xssAXmgQhkOO8dHnbWw=
P:musl
V:1.2.4-r2
A:x86_64
S:383061
I:622592
T:the musl c library (libc) implementation
U:https://musl.libc.org/
L:MIT
o:musl
m:Timo Ter\xc3\xa4s <timo.teras@iki.fi>
t:1695049484
c:8b0dda5d0a8a2b3a
p:so:libc.musl-x86_64.so.1=1
F:lib
R:ld-musl-x86_64.so.1
a:0:0:755
Z:Q1ZSV8LC3FkJRXyTvfMpHJWkRxHiI=
R:libc.musl-x86_64.so.1
a:0:0:777
Z:Q17yJ3JFNypA4mxhJJr0ou6CzsJVI=

"""
"""A paragraph of Alpine's database as apk writes it."""


def test_the_package_database_of_a_real_alpine() -> None:
    """With a database as apk writes it, a fix of musl reaches an image, unless it upgraded musl itself."""
    fixed = ALPINE.replace(b"1.2.4-r2", b"1.2.4-r3")
    was, now = (layer_of({APK: each, "lib/ld-musl-x86_64.so.1": each}) for each in (ALPINE, fixed))
    kept = image_of(was, layer_of({APK: ALPINE + own_package("apk")}))
    upgraded = image_of(was, layer_of({APK: fixed + own_package("apk"), "lib/ld-musl-x86_64.so.1": fixed}))
    found = [explained(image_of(was), image_of(now), image) for image in (kept, upgraded)]

    assert [each.reach for each in found] == [Reach.REACHES, Reach.DOES_NOT]
    assert [tuple(row.change) for row in found[0].packages.packages] == [("apk", "musl", "1.2.4-r2", "1.2.4-r3")]


def test_a_package_database_that_is_no_file_could_not_be_checked() -> None:
    """An image whose own layer replaces the package database by a link, with files of its own in place of changed ones, is doubt."""
    found = explained(WAS, NOW, on_base({DPKG: symlink("/etc/keep"), "usr/lib/libssl.so": "own"}))

    assert found.reach is Reach.UNKNOWN
    assert "its packages are unknown: the image: " in found.reason
