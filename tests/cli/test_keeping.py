"""`boltseal pull`, `keep ls` and `keep restore` with a listening registry and an engine behind a socket."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.client.state import ClientState
from boltseal.config import state_folder
from boltseal.host.kept_images import KeptImages
from tests import servers
from tests.cli import program
from tests.cli.program import Run
from tests.fakes.engine import FakeEngine, Wrong
from tests.images import Document, image, push
from tests.servers import Server

pytestmark = pytest.mark.slow

_numbers = itertools.count(1)


@dataclass
class PullingHost:
    """A host that pulls from a registry."""

    server: Server
    fake: FakeEngine
    host: str
    shop: str

    @property
    def name(self) -> str:
        return f"{self.server.address}/{self.shop}/app:latest"

    async def publish(self, words: str, part: str = "app") -> Document:
        """Push an image that the engine can then pull by its digest."""
        made, repository = image(words), f"{self.shop}/{part}"
        async with httpx2.AsyncClient(base_url=self.server.url, trust_env=False) as client:
            assert (await push(client, repository, "latest", made)).status_code == 201
        pulled = f"{self.server.address}/{repository}@{made.digest}"
        self.fake.pullable[pulled] = {
            "Id": made.config.digest,
            "RepoTags": [],
            "RepoDigests": [pulled],
            "Os": "linux",
            "Architecture": "amd64",
        }
        return made

    async def call(self, *arguments: str | Path) -> Run:
        """Run one command on this host while the engine answers."""
        return await asyncio.to_thread(program.call, *arguments, "--host", self.host)

    def meaning(self, name: str = "") -> str | None:
        found = self.fake.find(name or self.name)
        return None if found is None else str(found["Id"])


@asynccontextmanager
async def _pulling_host(server: Server, folder: Path) -> AsyncIterator[PullingHost]:
    fake = FakeEngine(root=str(folder / "docker"))
    async with fake.listening(folder) as address:
        yield PullingHost(server, fake, str(address), f"shop{next(_numbers)}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One registry for all tests of this file, each with a repository of its own."""
    with servers.boltseal(tmp_path_factory.mktemp("keeping") / "data") as server:
        yield server


@pytest.fixture
async def image_ref(shared: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PullingHost]:
    monkeypatch.chdir(tmp_path)
    async with _pulling_host(shared, tmp_path) as made:
        yield made


async def test_a_pull_can_be_undone(image_ref: PullingHost) -> None:
    """A pull and a restore print what was kept and how to return to it."""
    old = await image_ref.publish("one")
    first = await image_ref.call("pull", image_ref.name)
    new = await image_ref.publish("two")
    second = await image_ref.call("pull", image_ref.name)
    listed = await image_ref.call("keep", "ls")
    back = await image_ref.call("keep", "restore", image_ref.name)
    forward = await image_ref.call("keep", "restore", image_ref.name, "--to", new.digest)

    keep = f"{image_ref.name.removesuffix('latest')}boltseal-keep-{old.digest[7:19]}"
    assert (first.code, first.out) == (0, f"pulled  {image_ref.name}  {old.digest}\n")
    assert (second.code, second.out) == (0, f"pulled  {image_ref.name}  {new.digest}\n")
    assert f"kept {old.digest} as {keep}; back with: boltseal keep restore {image_ref.name}\n" in second.err
    assert listed.code == 0
    assert old.digest in listed.out
    assert all(len(line) <= 80 for line in listed.out.splitlines())
    assert (back.code, back.out) == (0, f"restored  {image_ref.name}  {old.digest}\n")
    assert forward.out == f"restored  {image_ref.name}  {new.digest}\n"
    assert image_ref.meaning() == new.config.digest


async def test_pulling_a_present_image_costs_one_head(image_ref: PullingHost) -> None:
    """Pulling an image that is already present costs one HEAD request, and no request to the ledger."""
    await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    before = _requests(image_ref.server)
    done = await image_ref.call(
        "pull", image_ref.name, "--plain-http"
    )  # on loopback one more request would find that out
    after = _requests(image_ref.server)

    assert done.out.startswith(f"here    {image_ref.name}  sha256:")
    assert {key: number - before.get(key, 0) for key, number in after.items() if number != before.get(key, 0)} == {
        'boltseal_http_requests_total{method="HEAD",route="/v2/{name}/manifests/{reference}",status="200"}': 1,
        'boltseal_http_requests_total{method="GET",route="/metrics",status="200"}': 1,
    }


def _requests(server: Server) -> dict[str, int]:
    text = httpx2.get(f"{server.url}/metrics", trust_env=False).raise_for_status().text
    lines = (line.rpartition(" ") for line in text.splitlines() if line.startswith("boltseal_http_requests_total{"))
    return {key: int(float(number)) for key, _, number in lines}


async def test_json_has_the_result(image_ref: PullingHost) -> None:
    """JSON has the result's fields for scripts."""
    old = await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    new = await image_ref.publish("two")
    pulled = (await image_ref.call("pull", image_ref.name, "--keep-for", "30d", "--json")).json
    (listed,) = (await image_ref.call("keep", "ls", image_ref.name, "--json")).json["results"]
    restored = (await image_ref.call("keep", "restore", image_ref.name, "--json")).json

    (result,) = pulled["results"]
    assert (pulled["schema"], pulled["outcome"], pulled["errors"]) == ("boltseal.pull/1", "holds", [])
    assert (result["ref"], result["status"], result["digest"]) == (image_ref.name, "pulled", new.digest)
    assert (result["image"], result["proof"], result["let_go"]) == (new.config.digest, "manifest", [])
    assert {"image", "digest", "tag", "kept", "until", "keep", "copy"} == set(result["kept"])
    assert (listed["status"], listed["digest"], listed["number"], listed["current"]) == ("kept", old.digest, 1, False)
    assert {"ref", "status", "reason", "ran", "held", "recorded", *result["kept"]} <= set(listed)
    assert restored["schema"] == "boltseal.keep-restore/1"
    assert restored["results"][0]["digest"] == old.digest
    assert restored["results"][0]["kept"]["digest"] == new.digest


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pull"], "name the images to pull, or Compose files by --compose, and not both"),
        (["pull", "app", "--compose", "."], "and not both"),
        (["pull", "Shop/App:1"], "must be lower-case"),
        (["pull", "app", "--keep-for", "soon"], "'--keep-for': \"soon\"; expected a whole number and a unit"),
        (["pull", "app", "--keep", "0"], "--keep': 0 is not in the range x>=1"),
        (["pull", "app", "--copy-to", "kept"], "expected a registry and a prefix"),
        (["pull", "app", "--copy-to", "registry.example.com/Kept"], "lower-case"),
        (["pull", "--compose", "nowhere.yaml"], "no such file or folder; check the path"),
        (["keep", "ls", f"app@sha256:{'a' * 64}"], "the digest in --to"),
        (["keep", "restore", "app", "--to", "yesterday"], "expected a number or at least 7 hex digits"),
    ],
)
async def test_invalid_arguments_are_usage_errors(image_ref: PullingHost, arguments: list[str], message: str) -> None:
    """Contradicting or invalid arguments are one line with exit code 2, and no image is changed."""
    await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    keeping = KeptImages(ClientState(state_folder()))
    image_ref.fake.asked.clear()
    done = await image_ref.call(*arguments)

    assert (done.code, done.out) == (2, "")
    assert message in " ".join(done.err.split())
    assert not [each for each in image_ref.fake.asked if not each.startswith("GET")]
    assert keeping.locks() == ()


async def test_a_missing_tag_is_exit_code_1(image_ref: PullingHost) -> None:
    """Pulling a missing tag is exit code 1."""
    done = await image_ref.call("pull", image_ref.name)

    assert (done.code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1


async def test_a_missing_engine_is_exit_code_3(image_ref: PullingHost, tmp_path: Path) -> None:
    """Without an engine, the exit code is 3 and the message says what to do."""
    for arguments in (["pull", image_ref.name], ["keep", "ls"], ["keep", "restore", image_ref.name]):
        done = await asyncio.to_thread(program.call, *arguments, "--host", f"unix://{tmp_path}/none.sock")

        assert (done.code, done.out) == (3, "")
        assert "is Docker running? Use --host or DOCKER_HOST for another engine" in done.err


async def test_one_failed_pull_does_not_stop_the_others(image_ref: PullingHost) -> None:
    """If one of several pulls fails, the others complete, and the exit code shows the failure."""
    await image_ref.publish("one")
    done = await image_ref.call("pull", f"{image_ref.name.removesuffix('latest')}none", image_ref.name)

    assert done.code == 1
    assert done.out.startswith(f"pulled  {image_ref.name}")
    assert "app:none" in done.err


async def test_a_full_disk_is_one_line(image_ref: PullingHost) -> None:
    """A full disk is one error line, and the tag keeps its image."""
    old = await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    await image_ref.publish("two")
    image_ref.fake.wrong["images/create"] = Wrong(200, b'{"error": "write /x: no space left on device"}')
    done = await image_ref.call("pull", image_ref.name)

    assert (done.code, done.out) == (3, "")
    assert done.err == 'boltseal: the engine\'s disk is full: "write /x: no space left on device"\n'
    assert image_ref.meaning() == old.config.digest


async def test_keep_n_lists_what_it_removes_and_what_not(image_ref: PullingHost) -> None:
    """`--keep N` lists the kept images that it removes, and those that it does not with the reason."""
    documents = []
    for words in ("one", "two", "three"):
        documents.append(await image_ref.publish(words))
        done = await image_ref.call("pull", image_ref.name, "--keep", "1")
    image_ref.fake.container("web", image_ref.name, documents[1].config.digest)
    await image_ref.publish("four")
    last = await image_ref.call("pull", image_ref.name, "--keep", "1")

    assert f"boltseal-keep-{documents[0].digest[7:19]} ({documents[0].digest}) was removed\n" in done.err
    assert f"({documents[1].digest}) is still kept: a container uses it\n" in last.err
    assert documents[0].config.digest not in image_ref.fake.images


async def test_an_image_known_only_by_a_keep_tag_is_reported_as_such(image_ref: PullingHost) -> None:
    """An image that has only its keep tag is listed without a former tag, which is unknown."""
    for words in ("one", "two"):
        await image_ref.publish(words)
        await image_ref.call("pull", image_ref.name)
    (Path(os.environ["BOLTSEAL_STATE"]) / "kept.db").unlink()
    listed = await image_ref.call("keep", "ls", "--json")
    text = await image_ref.call("keep", "ls")
    back = await image_ref.call("keep", "restore", image_ref.name)

    (found,) = listed.json["results"]
    assert (found["recorded"], found["current"]) == (False, False)
    assert "kept; which tag it had is not recorded here" in " ".join(text.out.split())
    assert back.code == 0, back.err


async def test_a_missing_kept_image_is_reported_until_it_is_forgotten(image_ref: PullingHost) -> None:
    """A kept image that was pruned is reported with exit code 1 until it is forgotten."""
    old = await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    await image_ref.publish("two")
    await image_ref.call("pull", image_ref.name)
    del image_ref.fake.images[old.config.digest]
    listed = await image_ref.call("keep", "ls")
    forgotten = await image_ref.call("keep", "ls", "--forget-gone")
    after = await image_ref.call("keep", "ls")

    assert listed.code == 1
    assert "gone: it was removed" in listed.out
    assert (forgotten.code, f"forgotten: {image_ref.name}" in forgotten.err) == (0, True)
    assert (after.code, after.err) == (0, "nothing is kept on this engine\n")


COMPOSE = """\
services:
  web:
    image: {shop}/app:latest
  db:
    image: {shop}/db:latest
  own:
    build: .
    image: {shop}/own
"""


@pytest.fixture
def compose(image_ref: PullingHost, tmp_path: Path) -> Path:
    """A Compose project with two pulled services and one that is built locally."""
    (tmp_path / "project").mkdir()
    file = tmp_path / "project/compose.yaml"
    file.write_text(COMPOSE.format(shop=f"{image_ref.server.address}/{image_ref.shop}"))
    return file


def rewrite(compose: Path, image: str) -> Path:
    compose.write_text(f"services:\n  web:\n    image: {image}\n")
    return compose


async def test_a_compose_file_is_pulled_as_a_whole(image_ref: PullingHost, compose: Path) -> None:
    """A Compose file's images are pulled all together or not at all; services that are built locally are skipped."""
    app = await image_ref.publish("app")
    missing = await image_ref.call("pull", "--compose", compose)
    none = image_ref.meaning()
    database = await image_ref.publish("db", "db")
    done = await image_ref.call("pull", "--compose", compose)

    assert (missing.code, none) == (1, None)
    assert "its name is unchanged: 1 other image could not be pulled" in " ".join(missing.err.split())
    assert (done.code, len(done.out.splitlines())) == (0, 2)
    assert "/own is built here and not pulled" in done.err
    assert image_ref.meaning() == app.config.digest
    assert image_ref.meaning(f"{image_ref.server.address}/{image_ref.shop}/db:latest") == database.config.digest


async def test_a_compose_file_is_pulled_as_it_is_locked(image_ref: PullingHost, compose: Path) -> None:
    """A Compose file's images are pulled by the lock's digests, whatever the tags resolve to, and are never removed."""
    locked = await image_ref.publish("app")
    await image_ref.publish("db", "db")
    lock = await asyncio.to_thread(program.run, "lock", cwd=compose.parent)
    await image_ref.publish("newer")
    done = await image_ref.call("pull", "--compose", compose, "--json")

    assert lock.code == 0
    assert "as locked in" in done.err
    assert {result["ref"]: result["digest"] for result in done.json["results"]}[image_ref.name] == locked.digest
    assert {result["proof"] for result in done.json["results"]} == {"lock"}
    for words in ("newest", "newest of all", "and more"):
        await image_ref.publish(words)
        last = await image_ref.call("pull", image_ref.name, "--keep", "1")
    assert f"({locked.digest}) is still kept: it is in a boltseal.lock\n" in last.err


async def test_a_lock_elsewhere_and_an_override_are_named_by_options(image_ref: PullingHost, compose: Path) -> None:
    """--project names a lock elsewhere and a second --compose an override; a missing one is reported."""
    locked = await image_ref.publish("app")
    override = rewrite(compose, f"{image_ref.name}").with_name("compose.override.yaml")
    override.write_text(f"services: {{db: {{image: '{image_ref.server.address}/{image_ref.shop}/db:latest'}}}}\n")
    database = await image_ref.publish("db", "db")
    lock = await asyncio.to_thread(program.run, "lock", cwd=compose.parents[1])
    await image_ref.publish("newer")
    alone = await image_ref.call("pull", "--compose", compose, "--project", compose.parents[1])
    both = await image_ref.call("pull", "--compose", compose, "--compose", override, "--project", compose.parents[1])

    assert lock.code == 0
    assert (alone.code, alone.out) == (0, f"pulled  {image_ref.name}  {locked.digest}\n")
    assert "compose.override.yaml is not read" in alone.err
    assert (both.code, len(both.out.splitlines())) == (0, 2)
    assert "is not read" not in both.err
    assert image_ref.meaning(f"{image_ref.server.address}/{image_ref.shop}/db:latest") == database.config.digest


async def test_a_compose_file_contacts_no_registry_that_the_user_has_not_allowed(
    image_ref: PullingHost, compose: Path
) -> None:
    """A checked-out Compose file cannot make boltseal contact a registry that the user has not allowed."""
    rewrite(compose, "registry.evil.example/app:1")
    done = await image_ref.call("pull", "--compose", compose)

    assert (done.code, done.out) == (3, "")
    assert "--allow registry.evil.example" in done.err
    assert "POST images/create" not in image_ref.fake.asked


async def test_a_compose_file_with_undecidable_images(image_ref: PullingHost, compose: Path) -> None:
    """If one image of a Compose file cannot be determined, none is pulled."""
    rewrite(compose, "app:${VERSION:?}")
    done = await image_ref.call("pull", "--compose", compose)

    assert done.code == 2
    assert "1 image of" in done.err
    assert "can't be resolved: nothing was pulled" in done.err


async def test_the_working_image_is_copied_to_the_given_registry(image_ref: PullingHost, tmp_path: Path) -> None:
    """Before a newer image takes the tag, the working one is copied to the given registry under its keep tag."""
    old = await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    await image_ref.publish("two")
    with servers.boltseal(tmp_path / "own/data") as own:
        done = await image_ref.call("pull", image_ref.name, "--copy-to", f"{own.address}/kept", "--json")
        there = httpx2.head(
            f"{own.url}/v2/kept/{image_ref.shop}/app/manifests/boltseal-keep-{old.digest[7:19]}",
            trust_env=False,
            headers=ACCEPT,
        )
    (result,) = done.json["results"]

    assert there.headers["docker-content-digest"] == old.digest
    assert (
        result["kept"]["copy"]
        == f"{own.address}/kept/{image_ref.shop}/app:boltseal-keep-{old.digest[7:19]}@{old.digest}"
    )


ACCEPT = {"accept": "application/vnd.oci.image.manifest.v1+json"}


async def test_an_impossible_scrub_moves_no_tag(image_ref: PullingHost) -> None:
    """If the requested scrub is impossible, no tag is moved and the exit code is 3."""
    old = await image_ref.publish("one")
    await image_ref.call("pull", image_ref.name)
    await image_ref.publish("two")
    done = await image_ref.call("pull", image_ref.name, "--scrub")

    assert (done.code, done.out) == (3, "")
    assert done.err.startswith("boltseal: not scrubbed: ")
    assert image_ref.meaning() == old.config.digest
