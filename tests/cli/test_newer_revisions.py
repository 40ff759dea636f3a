"""Sealed tags and their revisions in `outdated` at a listening registry: superseded versions, and bases with newer revisions."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx2
import pytest

from boltseal.files.atomic_files import locked
from boltseal.lockfile.document import LockedImage
from boltseal.lockfile.format import format_lock
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference
from tests import servers
from tests.cli.program import Run, call, run
from tests.fakes.engine import FakeEngine
from tests.images import Document
from tests.lockfile.locks import lock_of
from tests.project.bases.layered import layered
from tests.servers import Server
from tests.tar_images import push_document

pytestmark = [pytest.mark.slow]
ROOT = Path(__file__).parents[2]
NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
OS, FIXED = layered("a"), layered("c")

REBUILD = """#!{python}
import json, os, sys
sys.path.insert(0, "{root}")
import httpx2
from tests.project.bases.layered import layered
from tests.tar_images import push_document
new, base = os.environ["BOLTSEAL_REBUILD_NEW_IMAGE"], os.environ["BOLTSEAL_REBUILD_BASE"]
if "{keep}":
    base = "{keep}"
address, _, rest = new.partition("/")
with httpx2.Client(base_url=f"http://{{address}}", trust_env=False) as client:
    repository, _, tag = base.partition("/")[2].rpartition(":")
    found = client.get(f"/v2/{{repository}}/manifests/{{tag}}", headers={{"accept": "*/*"}})
    digest = found.headers["docker-content-digest"]
    letters = json.loads(found.content).get("annotations", {{}}).get("letters", "c")
    own = letters + rest[-1]
    annotations = {{"{name}": base, "{digest}": digest, "letters": own}}
    repository, _, tag = rest.rpartition(":")
    push_document(client, repository, tag, layered(own, annotations=annotations))
with open("{log}", "a") as file:
    file.write(f"{{os.environ['BOLTSEAL_REBUILD_IMAGE'].partition('/')[2]}} {{base.partition('/')[2]}} {{tag}}\\n")
"""
"""A rebuild that pushes an image on the base that it is called with; `keep`: on this base instead."""


class Shop:
    """A registry in which versions are sealed."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.address = server.address
        self.log = folder / "rebuilt"
        self._keys = folder / "data.keys"
        self._client = httpx2.Client(base_url=server.url, trust_env=False)

    def push(self, name: str, letters: str, base: str = "", on: Document | None = None) -> Document:
        annotations = {"letters": letters}
        if on is not None:
            annotations |= {NAME: f"{self.address}/{base}", DIGEST: on.digest}
        image = layered(letters, annotations=annotations)
        self.put(name, image)
        return image

    def put(self, name: str, image: Document) -> None:
        repository, _, tag = name.rpartition(":")
        push_document(self._client, repository, tag, image)

    @contextmanager
    def unsigned(self) -> Iterator[None]:
        """Let the server sign nothing inside the block, as while its key is replaced."""
        with locked(f"{self._keys}/ledger.lock"), locked(f"{self._keys}/ledger.change.lock"):
            yield

    def outdated(self, *more: str) -> Run:
        return call("outdated", "--registry", self.address, "--window", "0s", *more)

    def statuses(self) -> Mapping[str, str]:
        result = self.outdated("--json")
        return {row["ref"].partition("/")[2]: row["status"] for row in result.json["results"]}

    def rebuild_with(self, folder: Path, keep: str = "") -> None:
        """Configure rebuilds by a program. `keep`: the base that it uses instead of the one that it gets."""
        program = folder / "rebuild"
        text = REBUILD.format(
            python=sys.executable,
            root=ROOT,
            name=NAME,
            digest=DIGEST,
            log=self.log,
            keep=keep and f"{self.address}/{keep}",
        )
        program.write_text(text)
        program.chmod(0o755)
        settings = folder / "config" / "boltseal" / "boltseal.toml"
        settings.parent.mkdir(parents=True)
        settings.write_text(f'[[on_outdated]]\ncommand = ["{program}"]\n')

    @property
    def rebuilt(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def close(self) -> None:
        self._client.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A registry in which all tags of the repositories `free` may move, and versions are sealed elsewhere."""
    rule = '[[rule]]\nrepository = "*/free"\nmode = "floating"\n'
    with servers.boltseal(tmp_path / "data", config=rule) as server:
        made = Shop(server, tmp_path)
        yield made
        made.close()


def test_a_version_whose_newest_revision_is_current_is_superseded(shop: Shop) -> None:
    """The sealed 1.4.2 on the former base stays a result, but neither outdated nor a doubt, when 1.4.2.1 is current: exit code 0."""
    shop.put("base/os:latest", OS)
    shop.push("shop/app:1.4.2", "aX", "base/os:latest", OS)
    shop.put("base/os:latest", FIXED)
    before = shop.outdated()
    shop.push("shop/app:1.4.2.1", "cX", "base/os:latest", FIXED)
    result = shop.outdated()

    assert (before.code, result.code) == (1, 0), result.out
    assert [shop.statuses()[f"shop/app:{tag}"] for tag in ("1.4.2", "1.4.2.1")] == ["superseded", "current"]
    words = " ".join(result.out.split())
    assert f"superseded {shop.address}/shop/app:1.4.2 why superseded by {shop.address}/shop/app:1.4.2.1" in words


def test_a_running_version_is_outdated_beside_its_newest_revision(shop: Shop, tmp_path: Path) -> None:
    """A container on the sealed 1.4.2 is outdated although another one runs 1.4.2.1, which is current: exit code 1."""
    shop.put("base/os:latest", OS)
    former = shop.push("shop/app:1.4.2", "aX", "base/os:latest", OS)
    shop.put("base/os:latest", FIXED)
    newest = shop.push("shop/app:1.4.2.1", "cX", "base/os:latest", FIXED)
    engine, name = FakeEngine(), f"{shop.address}/shop/app"
    for container, tag, image in (("old", "1.4.2", former), ("new", "1.4.2.1", newest)):
        pulled = engine.image(container, f"{name}:{tag}", pulled=(f"{name}@{image.digest}",))
        engine.container(container, f"{name}:{tag}", pulled)

    async def asked() -> Run:
        async with engine.listening(tmp_path) as address:
            return await asyncio.to_thread(run, "outdated", "--running", "--host", str(address), "--json")

    result = asyncio.run(asked())

    assert result.code == 1, result.err
    assert {row["ref"].partition(":")[0]: row["status"] for row in result.json["results"]} == {
        "old": "outdated",
        "new": "current",
    }
    [reason] = [row["reason"] for row in result.json["results"] if row["status"] == "outdated"]
    assert reason.endswith(f"; its newest revision {name}:1.4.2.1 is current: use that one")


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize("source", ["compose", "lock"])
def test_a_version_that_a_project_uses_is_outdated_beside_its_newest_revision(
    shop: Shop, tmp_path: Path, source: str, newest_first: bool
) -> None:
    """A project that names the sealed 1.4.2 and 1.4.2.1 is outdated by the first, and the reason names the second: exit code 1."""
    shop.put("base/os:latest", OS)
    former = shop.push("shop/app:1.4.2", "aX", "base/os:latest", OS)
    shop.put("base/os:latest", FIXED)
    newest = shop.push("shop/app:1.4.2.1", "cX", "base/os:latest", FIXED)
    name = f"{shop.address}/shop/app"
    images = {f"{name}:1.4.2": former, f"{name}:1.4.2.1": newest}
    names = sorted(images, reverse=newest_first)
    services = "".join(f"  s{number}: {{image: '{each}'}}\n" for number, each in enumerate(names))
    (tmp_path / "compose.yaml").write_text(f"services:\n{services}")
    entries = (
        LockedImage(Reference.parse(each), Digest.parse(images[each].digest), 1_790_000_000_000_000) for each in names
    )
    (tmp_path / "boltseal.lock").write_text(format_lock(lock_of(*entries)))
    path = tmp_path / ("compose.yaml" if source == "compose" else "boltseal.lock")
    result = call("outdated", f"--{source}", path, "--window", "0s", "--json")
    rows = {row["ref"].partition("@")[0]: row for row in result.json["results"]}

    assert result.code == 1, result.err
    assert {each: row["status"] for each, row in rows.items()} == {
        f"{name}:1.4.2": "outdated",
        f"{name}:1.4.2.1": "current",
    }
    assert rows[f"{name}:1.4.2"]["reason"].endswith(f"; its newest revision {name}:1.4.2.1 is current: use that one")


def test_a_revision_that_is_pinned_to_a_former_base_supersedes_nothing(shop: Shop, tmp_path: Path) -> None:
    """If one of two digests with the newest revision's tag is on a former base, that revision is not called current."""
    shop.put("base/os:latest", OS)
    former = shop.push("shop/app:1.4.2", "aX", "base/os:latest", OS)
    stale = shop.push("shop/app:other", "aY", "base/os:latest", OS)
    shop.put("base/os:latest", FIXED)
    newest = shop.push("shop/app:1.4.2.1", "cX", "base/os:latest", FIXED)
    name = f"{shop.address}/shop/app"
    pinned = [("1.4.2", former), ("1.4.2.1", stale), ("1.4.2.1", newest)]
    result = call("outdated", *(f"{name}:{tag}@{image.digest}" for tag, image in pinned), "--window", "0s", "--json")

    assert [row["status"] for row in result.json["results"]] == ["outdated", "outdated", "current"]
    assert "1.4.2.1 is current" not in result.out


def test_a_version_whose_newest_revision_is_outdated_stays_outdated(shop: Shop) -> None:
    """While the newest revision is itself on a former base, the version that it replaces is outdated as well."""
    shop.put("base/os:latest", OS)
    shop.push("shop/app:1.4.2", "aX", "base/os:latest", OS)
    shop.push("shop/app:1.4.2.1", "aY", "base/os:latest", OS)
    shop.put("base/os:latest", FIXED)

    assert [shop.statuses()[f"shop/app:1.4.2{end}"] for end in ("", ".1")] == ["outdated", "outdated"]


def test_a_mutable_version_beside_a_revision_is_rebuilt(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mutable 1.4.2 is not superseded by 1.4.2.1, and a rebuild of it is requested, which moves the tag itself."""
    shop.put("base/os:latest", OS)
    shop.push("shop/free:1.4.2", "aX", "base/os:latest", OS)
    shop.put("base/os:latest", FIXED)
    shop.push("shop/free:1.4.2.1", "cX", "base/os:latest", FIXED)
    before = shop.statuses()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shop.rebuild_with(tmp_path)
    shop.outdated("--rebuild")

    assert before["shop/free:1.4.2"] == "outdated"
    assert shop.rebuilt == ["shop/free:1.4.2 base/os:latest 1.4.2"]
    assert shop.statuses()["shop/free:1.4.2"] == "current"


def levels(shop: Shop) -> None:
    """Push three levels, each but the lowest one sealed, and a fix of the lowest."""
    shop.put("base/os:latest", OS)
    runtime = shop.push("base/rt:3.0.0", "aR", "base/os:latest", OS)
    shop.push("shop/app:1.4.2", "aRX", "base/rt:3.0.0", runtime)
    shop.put("base/os:latest", FIXED)


def test_a_sealed_base_has_a_newer_revision(shop: Shop) -> None:
    """What is built on the sealed rt:3.0.0 is outdated as soon as rt:3.0.0.1 exists, and the answer names it."""
    levels(shop)
    before = shop.outdated("--json")
    shop.push("base/rt:3.0.0.1", "cR", "base/os:latest", FIXED)
    result, alone = shop.outdated("--json"), call("outdated", f"{shop.address}/shop/app:1.4.2", "--window", "0s")
    [was], [now] = (
        [row for row in run.json["results"] if row["ref"].endswith("app:1.4.2")] for run in (before, result)
    )

    assert (was["status"], was["newer_revision"]) == ("outdated", None)
    assert was["rebuild_first"] == [f"{shop.address}/base/rt:3.0.0"]
    assert (now["status"], now["rebuild_first"]) == ("outdated", [])
    assert now["newer_revision"].startswith(f"{shop.address}/base/rt:3.0.0.1@sha256:")
    assert "a newer revision of its base exists" in now["reason"]
    assert shop.statuses()["base/rt:3.0.0"] == "superseded"
    assert alone.code == 1
    assert f"newer     {shop.address}/base/rt:3.0.0.1" in alone.out


@pytest.mark.parametrize("signed_after_s", [0.5, None])
def test_a_push_that_is_not_signed_yet_is_waited_for(shop: Shop, signed_after_s: float | None) -> None:
    """The newest revision of a base that was pushed a moment ago is named as soon as the push is signed; else the image is unknown."""
    shop.put("base/os:latest", OS)
    with ExitStack() as unsigned, ExitStack() as waited:
        unsigned.enter_context(shop.unsigned())
        runtime = shop.push("base/rt:3.0.0", "aR", "base/os:latest", OS)
        shop.push("base/rt:3.0.0.1", "aS", "base/os:latest", OS)
        shop.push("shop/app:1.4.2", "aRX", "base/rt:3.0.0", runtime)
        if signed_after_s is not None:
            timer = threading.Timer(signed_after_s, unsigned.close)
            waited.callback(timer.join)
            timer.start()
        result = shop.outdated("--json")
    [row] = [row for row in result.json["results"] if row["ref"].endswith("app:1.4.2")]

    if signed_after_s is None:
        assert (result.code, row["status"]) == (3, "cannot tell")
        assert "lists no signed entry of" in row["reason"]
    else:
        assert (result.code, row["status"]) == (1, "outdated")
        assert row["newer_revision"].startswith(f"{shop.address}/base/rt:3.0.0.1@sha256:")


def test_a_revision_with_the_same_image_is_not_newer(shop: Shop) -> None:
    """A revision that resolves to the same image as the sealed base leaves the image current."""
    shop.put("base/os:latest", OS)
    runtime = shop.push("base/rt:3.0.0", "aR", "base/os:latest", OS)
    shop.push("shop/app:1.4.2", "aRX", "base/rt:3.0.0", runtime)
    shop.put("base/rt:3.0.0.1", runtime)

    assert shop.statuses()["shop/app:1.4.2"] == "current"


def test_a_mutable_base_beside_a_revision_is_current(shop: Shop) -> None:
    """An image on a mutable tag follows that tag, and a tag that looks like its revision does not matter."""
    shop.put("base/os:latest", OS)
    runtime = shop.push("base/free:3.0.0", "aR", "base/os:latest", OS)
    shop.push("shop/app:1.4.2", "aRX", "base/free:3.0.0", runtime)
    shop.push("base/free:3.0.0.1", "aS", "base/os:latest", OS)

    assert shop.statuses()["shop/app:1.4.2"] == "current"


def test_the_loop_closes_over_three_levels_of_sealed_tags(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run rebuilds the sealed middle image and then the one above, on the new revision; the next one finds all current."""
    levels(shop)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shop.rebuild_with(tmp_path)
    shop.outdated("--rebuild")
    after = shop.outdated()

    assert shop.rebuilt == ["base/rt:3.0.0 base/os:latest 3.0.0.1", "shop/app:1.4.2 base/rt:3.0.0.1 1.4.2.1"]
    assert after.code == 0, after.out
    assert [shop.statuses()[name] for name in ("shop/app:1.4.2", "shop/app:1.4.2.1")] == ["superseded", "current"]


def test_a_rebuild_that_does_not_take_the_revision_is_not_repeated(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild whose Dockerfile keeps the former revision is requested once, and the next runs say what to change."""
    levels(shop)
    shop.push("base/rt:3.0.0.1", "cR", "base/os:latest", FIXED)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    shop.rebuild_with(tmp_path, keep="base/rt:3.0.0")
    runs = [shop.outdated("--rebuild") for _ in range(3)]

    assert shop.rebuilt == ["shop/app:1.4.2 base/rt:3.0.0 1.4.2.1"]
    assert f"{shop.address}/shop/app:1.4.2.1: a rebuild for {shop.address}/base/rt:3.0.0.1 was requested" in runs[2].err
    assert runs[2].code == 1
    assert json.loads(shop.outdated("--json").out)["outcome"] == "differs"
