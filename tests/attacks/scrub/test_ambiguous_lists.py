"""Lists and databases that an engine reads otherwise than a reader that takes every field or key as it is written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.engines.containerd_store import METADATA
from boltseal.host.scrub.find_stores import store_at
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from tests import servers
from tests.attacks.scrub.image import Layer, archive, archive_of
from tests.attacks.scrub.stores import podman_on
from tests.programs import program
from tests.real.tools import run

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("empty_home")]

COMMAND = ["/bin/busybox", "cat", "/message"]
GOOD, OTHER = "shop/good:1", "shop/other:1"


def layer(message: bytes) -> bytes:
    busybox = Path(program("busybox")).read_bytes()
    return Layer().folder("bin").add("bin/busybox", busybox, mode=0o755).add("message", message).done()


def reports(root: Path) -> list[ScrubReport]:
    return scrub(store_at(root), ScrubRequest(), lambda *_: None)


def holding(root: Path) -> set[str]:
    """Return the names of the images that hold."""
    return {name for each in reports(root) for name in each.names if each.status is ReportStatus.HOLDS}


@pytest.mark.parametrize("key", ["LAYER", "Layer"])
def test_podman_runs_another_layer_by_a_second_spelling_of_the_key(tmp_path: Path, key: str) -> None:
    """An image of Podman whose list has its layer twice, in two spellings, does not hold: Podman runs the other one."""
    root = tmp_path / "root"
    podman = podman_on(root, tmp_path)
    for name in (GOOD, OTHER):
        archive(tmp_path / "image.tar", [layer(name.encode())], name, COMMAND)
        run(*podman, "load", "-q", "-i", tmp_path / "image.tar").checked()
    listed = root / "overlay-images/images.json"
    layers = {each["names"][0]: each["layer"] for each in json.loads(listed.read_bytes())}
    good, other = layers[f"localhost/{GOOD}"], layers[f"localhost/{OTHER}"]
    before = holding(root)
    listed.write_text(listed.read_text().replace(f'"layer":"{good}"', f'"layer":"{good}","{key}":"{other}"'))

    begin = ("run", "--rm", "--pull", "never", "--network", "none", "--pids-limit", "0")
    shown = run(*podman, "--runtime", "runc", *begin, GOOD)
    servers.unmounted(tmp_path)

    assert (before, shown.text.strip()) == ({f"localhost/{GOOD}", f"localhost/{OTHER}"}, OTHER)
    assert holding(root) == {f"localhost/{OTHER}"}
    assert any(f'"{key}"' in why for each in reports(root) for why in each.unknown)


def test_podman_runs_the_layer_of_a_second_entry_with_the_same_id(tmp_path: Path) -> None:
    """An image of Podman that is listed twice differs by its name too: Podman runs the layer of the other entry."""
    root = tmp_path / "root"
    podman = podman_on(root, tmp_path)
    for name in (GOOD, OTHER):
        archive(tmp_path / "image.tar", [layer(name.encode())], name, COMMAND)
        run(*podman, "load", "-q", "-i", tmp_path / "image.tar").checked()
    listed = root / "overlay-images/images.json"
    entries = {each["names"][0]: each for each in json.loads(listed.read_bytes())}
    good, other = entries[f"localhost/{GOOD}"], entries[f"localhost/{OTHER}"]
    listed.write_text(json.dumps([good, other, {**good, "names": [], "layer": other["layer"]}]))

    begin = ("run", "--rm", "--pull", "never", "--network", "none", "--pids-limit", "0")
    shown = run(*podman, "--runtime", "runc", *begin, GOOD)
    servers.unmounted(tmp_path)
    (by_name,) = scrub(store_at(root), ScrubRequest(images=(GOOD,)), lambda *_: None)

    assert shown.text.strip() == OTHER
    assert by_name.status is ReportStatus.DIFFERS
    assert by_name.differences[0].got == "2 entries"


def same_tags_in_another_spelling(tags: dict[str, dict[str, str]], other: str) -> str:
    return f'{{"Repositories":{json.dumps(tags)},"REPOSITORIES":{json.dumps({"shop/good": {GOOD: other}})}}}'


def a_tag_in_another_repository(tags: dict[str, dict[str, str]], other: str) -> str:
    return json.dumps({"Repositories": {**tags, "shop/good": {GOOD: other}, "zzz": tags["shop/good"]}})


@pytest.mark.parametrize("forged", [same_tags_in_another_spelling, a_tag_in_another_repository])
def test_docker_finds_another_image_in_an_ambiguous_list(
    tmp_path: Path, forged: Callable[[dict[str, dict[str, str]], str], str]
) -> None:
    """Docker's tags could not be checked if a name is listed twice: Docker takes one of them by rules of its own."""
    made = {name: [layer(name.encode())] for name in (GOOD, OTHER)}
    _, other = archive_of(tmp_path / "image.tar", made, COMMAND)
    root = tmp_path / "engine/data"
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        run("docker", "-H", f"unix://{server.address}", "load", "-i", tmp_path / "image.tar").checked()
    before = holding(root)
    listed = root / "image/overlay2/repositories.json"
    listed.write_text(forged(json.loads(listed.read_bytes())["Repositories"], f"sha256:{other}"))
    found = reports(root)
    with servers.dockerd(tmp_path / "engine", driver="overlay2") as server:
        shown = run("docker", "-H", f"unix://{server.address}", "run", "--rm", "--network", "none", GOOD)

    assert (before, shown.text.strip()) == ({GOOD, OTHER}, OTHER)
    assert {name for each in found for name in each.names} == set()
    assert any("repositories.json has" in why for each in found for why in each.unknown)


def test_containerd_finds_the_first_of_two_keys(tmp_path: Path) -> None:
    """A database of containerd that has a name twice is no list of images: containerd finds only one of them."""
    good, other = (f"localhost/shop/{name}:1" for name in ("good", "evil"))
    root = tmp_path / "engine/root"
    begin = ("run", "--rm", "--cpu-shares", "0", "--snapshotter", "overlayfs")
    with servers.containerd(tmp_path / "engine") as server:
        for name in (good, other):
            archive(tmp_path / "image.tar", [layer(name.encode())], name, COMMAND)
            oci = tmp_path / f"{name[-6:-2]}.tar"
            run(
                "skopeo",
                "--insecure-policy",
                "copy",
                f"docker-archive:{tmp_path}/image.tar",
                f"oci-archive:{oci}:{name}",
            ).checked()
            run("ctr", "--address", server.address, "images", "import", "--snapshotter", "overlayfs", oci).checked()
        before = holding(root)
        with (root / METADATA.decode()).open(
            "r+b"
        ) as database:  # containerd maps the file, and checks it only at its start
            raw = database.read()
            for found in re.finditer(re.escape(other.encode()), raw):
                database.seek(found.start())
                database.write(good.encode())
        shown = run("ctr", "--address", server.address, *begin, good, "box")
        then = reports(root)

    assert (before, shown.text.strip()) == ({good, other}, other)
    assert {name for each in then for name in each.names} == set()
    assert any("out of order" in why for each in then for why in each.unknown)
