"""`boltseal outdated` with a listening registry: output, exit codes, and every way to name images."""

from __future__ import annotations

import asyncio
import base64
import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import httpx2
import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.state import ClientState
from boltseal.client.transport import Transport, TransportOptions
from boltseal.commands.registry_images import TooManyImages, registry_images
from boltseal.config import state_folder
from boltseal.ledger.entry import format_time
from boltseal.project.bases.rebuild_journal import RebuildJournal
from boltseal.server.store_factory import now_us
from tests import servers
from tests.cli.program import Run, call, clean_environment, run
from tests.fakes.engine import FakeEngine
from tests.images import OCI_INDEX, Document, artifact, to_json
from tests.polling import is_signed, wait_until
from tests.ports import free_port
from tests.project.bases.layered import layered
from tests.servers import Server

pytestmark = [pytest.mark.slow]
NAME, DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
WAS = layered("ab", env=["NODE_VERSION=16.13.1"])
NOW = layered("acd", env=["NODE_VERSION=16.13.2"], labels={"org.opencontainers.image.version": "16.13.2"})


class ImageRegistry:
    """A registry with a base image that moves, and images based on it."""

    def __init__(self, server: Server) -> None:
        self.address = server.address
        self.database = server.folder / "boltseal.db"
        self.client = httpx2.Client(base_url=server.url, trust_env=False)

    def push(self, repository: str, tag: str, document: Document) -> None:
        for blob in document.blobs:
            started = self.client.post(f"/v2/{repository}/blobs/uploads/")
            joint = "&" if "?" in started.headers["location"] else "?"
            self.client.put(f"{started.headers['location']}{joint}digest={blob.digest}", content=blob.data)
        answer = self.client.put(
            f"/v2/{repository}/manifests/{tag}",
            content=document.raw,
            headers={"content-type": document.media_type},
        )
        assert answer.status_code == 201

    def app(self, tag: str, layers: str = "abX", *, labelled: bool = True) -> None:
        labels = {NAME: f"{self.address}/base/node:latest", DIGEST: WAS.digest}
        self.push("shop/app", tag, layered(layers, annotations=labels if labelled else None))

    def forget_chain(self, document: Document) -> None:
        """Remove the layer chain of a manifest, as in a store that is older than the table."""
        with sqlite3.connect(self.database) as database:
            database.execute("DELETE FROM layer_chain WHERE digest = ?", (document.digest,))
        database.close()

    def signed(self, index: int) -> None:
        """Wait until a checkpoint covers this entry, which is signed a moment later."""
        wait_until(lambda: is_signed(self.client.get("/ledger/checkpoint"), index + 1), f"entry {index} is signed")

    def outdated(self, *arguments: str | Path) -> Run:
        return call("outdated", "--window", "0s", *arguments)

    @property
    def ref(self) -> str:
        return f"{self.address}/shop/app"


@pytest.fixture
def shop(server: Server) -> Iterator[ImageRegistry]:
    made = ImageRegistry(server)
    made.push("base/node", "latest", WAS)
    made.app("1.0.0")
    yield made
    made.client.close()


def test_an_image_on_the_current_base_is_up_to_date(shop: ImageRegistry) -> None:
    """An image on the current digest of its base is up to date: exit code 0; --details shows how."""
    result, more = shop.outdated(f"{shop.ref}:1.0.0"), shop.outdated(f"{shop.ref}:1.0.0", "--details")

    assert (result.code, result.out) == (0, f"current      {shop.ref}:1.0.0\n")
    assert "the tag still resolves to its base" in more.out


def test_a_base_that_was_not_resolved_again_is_mentioned(shop: ImageRegistry) -> None:
    """Within the window the base's tag is not resolved again, and the run says so and how to do it now."""
    shop.push("base/node", "latest", WAS)
    shop.app("1.0")
    first = call("outdated", f"{shop.address}/shop/app:1.0")
    shop.push("base/node", "latest", NOW)
    remembered = call("outdated", f"{shop.address}/shop/app:1.0")
    now = shop.outdated(f"{shop.address}/shop/app:1.0")

    assert (first.code, remembered.code, now.code) == (0, 0, 1)
    assert "1 base tag not resolved again within 15m of the last time; now: --window 0s" in remembered.err
    assert "not resolved again" not in first.err + now.err


def test_an_outdated_image_is_reported_with_the_reason(shop: ImageRegistry) -> None:
    """An outdated image is exit code 1 with the base, its source, the time, the distance and the differences."""
    shop.push("base/node", "latest", NOW)
    result = shop.outdated(f"{shop.ref}:1.0.0")
    lines = " ".join(result.out.split())

    assert result.code == 1
    assert f"outdated {shop.ref}:1.0.0" in lines
    assert f"base {shop.address}/base/node:latest (recorded: an annotation of the manifest)" in lines
    assert "1 move behind" in lines
    assert "seen since 20" in lines
    assert "lost 1 layer" in lines
    assert "got 2 layers" in lines
    assert "ENV NODE_VERSION" in lines
    assert "version none -> 16.13.2" in lines
    assert "1 image: 1 outdated" in result.err


def test_json_has_the_rows(shop: ImageRegistry) -> None:
    """JSON has the common envelope, and the same terms as the text."""
    shop.push("base/node", "latest", NOW)
    ran = shop.outdated(f"{shop.ref}:1.0.0", "--json")
    [result] = ran.json["results"]

    assert (ran.code, ran.json["schema"], ran.json["outcome"]) == (1, "boltseal.outdated/1", "differs")
    assert (result["ref"], result["status"], result["how"]) == (f"{shop.ref}:1.0.0", "outdated", "recorded")
    assert (result["built_on"], result["resolves_to"]) == (WAS.digest, NOW.digest)
    assert (result["behind"], result["behind_exact"], result["since"][:2]) == (1, True, "20")
    assert result["changes"]["settings"]["ENV NODE_VERSION"] == {"was": "16.13.1", "now": "16.13.2"}


def test_a_base_that_lost_its_top_layer_is_found_by_the_registrys_history(shop: ImageRegistry) -> None:
    """A former base without its own label is found in the registry's history, although nothing observed it before."""
    shop.push("base/node", "latest", layered("abc"))
    shop.push("shop/app", "2.0.0", layered("abcX", created="2199-01-01T00:00:00Z"))
    shop.push("base/node", "latest", layered("ab"))
    result = shop.outdated(f"{shop.ref}:2.0.0", "--base", f"{shop.address}/base/node:latest")

    assert result.code == 1
    assert "lost its uppermost layer" in result.out
    assert "proven: its layers" in result.out


def test_a_base_that_moved_is_not_replaced_by_its_own_base(shop: ImageRegistry) -> None:
    """A base is not replaced by its own base where no image is labelled, also if the former base was deleted; without its
    layer chain the answer is unknown."""
    shop.push("base/os", "latest", layered("o"))
    shop.push("base/rt", "latest", layered("or"))
    shop.push("team/app", "1.0.0", layered("orX", created=format_time(now_us())))
    before = shop.outdated("--registry", shop.address, "--json")
    shop.push("base/rt", "latest", layered("os"))
    shop.signed(7)
    known, shown = shop.outdated("--registry", shop.address, "--json"), shop.outdated("--registry", shop.address)
    deleted = shop.client.delete(f"/v2/base/rt/manifests/{layered('or').digest}")
    remembered = shop.outdated("--registry", shop.address, "--json")
    state_folder().joinpath("learned.db").unlink()
    kept = shop.outdated("--registry", shop.address, "--json")
    shop.forget_chain(layered("or"))
    state_folder().joinpath("learned.db").unlink()
    unknown = shop.outdated("--registry", shop.address, "--json")
    answers = [team_app(result) for result in (before, known, remembered, kept, unknown)]

    assert [(one["status"], one["base"].rpartition("/")[2]) for one in answers] == [
        ("current", "rt:latest"),
        ("outdated", "rt:latest"),
        ("outdated", "rt:latest"),
        ("outdated", "rt:latest"),
        ("cannot tell", "os:latest"),
    ]
    assert (answers[1]["built_on"], answers[1]["resolves_to"]) == (layered("or").digest, layered("os").digest)
    assert (answers[1]["how"], answers[1]["by"], answers[1]["behind"]) == ("proven", "its layers", 1)
    assert (known.code, unknown.code, deleted.status_code) == (1, 3, 202)
    assert f"base {shop.address}/base/rt:latest (proven: its layers)" in " ".join(shown.out.split())
    assert f"{shop.address}/base/rt:latest formerly resolved to {layered('or').digest[:19]}" in answers[4]["reason"]
    assert (answers[3]["built_on"], answers[3]["reason"]) == (layered("or").digest, answers[1]["reason"])


def team_app(result: Run) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in result.json["results"] if "/team/app:" in one["ref"])
    return found


def test_a_dockerfile_infers_the_base(shop: ImageRegistry, tmp_path: Path) -> None:
    """A base from a Dockerfile is marked as inferred; FROM scratch has no base."""
    shop.app("2.0.0", "abX", labelled=False)
    shop.push("base/node", "latest", NOW)
    file, nothing = tmp_path / "Dockerfile", tmp_path / "Other"
    file.write_text(f"FROM golang:1.22 AS build\nFROM {shop.address}/base/node:latest\nCOPY --from=build / /\n")
    nothing.write_text("FROM scratch\nCOPY x /\n")
    result = shop.outdated(f"{shop.ref}:2.0.0", "--dockerfile", file)
    scratch = shop.outdated(f"{shop.ref}:2.0.0", "--dockerfile", nothing)

    assert result.code == 1
    assert "base/node:latest" in result.out
    assert (scratch.code, scratch.out.split()[:2]) == (0, ["no", "base"])


def test_all_images_of_a_registry(shop: ImageRegistry) -> None:
    """Of all images of a registry, signatures and SBOMs are only counted; exit code 1 takes precedence over 3."""
    shop.app("2.0.0", "Z", labelled=False)
    shop.app("3.0.0", "YZ", labelled=False)
    shop.push("shop/app", "sbom", artifact("an SBOM"))
    shop.push("base/node", "latest", NOW)
    ran = shop.outdated("--registry", shop.address, "--json")
    found = {result["ref"].partition("/")[2]: result["status"] for result in ran.json["results"]}

    assert ran.code == 1
    assert found == {
        "shop/app:1.0.0": "outdated",
        "shop/app:2.0.0": "no base",
        "shop/app:3.0.0": "cannot tell",
        "base/node:latest": "cannot tell",
    }
    assert "1 more are no images" in ran.err


def test_an_endless_tag_list_is_abandoned(shop: ImageRegistry) -> None:
    """An endless tag list of a foreign registry is read up to a limit."""
    shop.app("2.0.0", "abY")

    async def listed(most: int) -> int:
        transport = Transport(CredentialStore(()), TransportOptions())
        try:
            return len([one async for one in registry_images(transport, shop.address, most)])
        finally:
            await transport.aclose()

    assert asyncio.run(listed(3)) == 3
    with pytest.raises(TooManyImages, match="name the images"):
        asyncio.run(listed(2))


def test_the_images_of_a_compose_file_and_of_a_lock(shop: ImageRegistry, tmp_path: Path) -> None:
    """`outdated` checks the images of a Compose file and of a lock."""
    compose = tmp_path / "compose.yaml"
    compose.write_text(f"services:\n  web: {{image: '{shop.ref}:1.0.0'}}\n  worker: {{image: '{shop.ref}:1.0.0'}}\n")
    by_compose = shop.outdated("--compose", compose)
    locked = call("lock", "--project", tmp_path)
    by_lock = shop.outdated("--lock", tmp_path / "boltseal.lock")

    assert (by_compose.code, by_compose.out) == (0, f"current      {shop.ref}:1.0.0\n")
    assert locked.code == 0
    assert (by_lock.code, by_lock.out) == (0, f"current      {shop.ref}:1.0.0\n")


def test_a_file_can_not_choose_the_contacted_hosts(shop: ImageRegistry, tmp_path: Path) -> None:
    """A checked-out file can't make boltseal contact a host that the user has not allowed."""
    compose = tmp_path / "compose.yaml"
    compose.write_text("services:\n  web: {image: 'internal.example:8443/x:1'}\n")
    result = shop.outdated("--compose", compose)

    assert result.code == 3
    assert "--allow internal.example:8443" in result.out


def test_an_image_that_could_not_be_checked_is_one_line_and_the_others_continue(shop: ImageRegistry) -> None:
    """A missing image or an unreachable registry is one line and exit code 3, or 1 if another image is outdated."""
    unreachable = f"127.0.0.1:{free_port()}/shop/app:1"
    result = shop.outdated(f"{shop.ref}:1.0.0", f"{shop.ref}:none", unreachable)
    shop.push("base/node", "latest", NOW)

    assert result.code == 3
    assert f"current      {shop.ref}:1.0.0" in result.out
    assert "has no manifest none" in result.out
    assert f"cannot tell  {unreachable}" in result.out
    assert shop.outdated(f"{shop.ref}:1.0.0", f"{shop.ref}:none").code == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "name images, or one of"),
        (("x", "--running"), "name images, or one of"),
        (("--compose", "/nonexistent/compose.yaml"), "no such file or folder; check the path"),
        (("--lock", "/nonexistent/boltseal.lock"), "no such file or folder; check the path"),
        (("x", "--dockerfile", "/nonexistent/Dockerfile"), "no such file or folder; check the path"),
        (("UPPER/Case:1",), "repository name"),
        (("x", "--window", "-1"), "window"),
    ],
)
def test_usage_errors_are_one_line(arguments: tuple[str, ...], words: str) -> None:
    """Usage errors are one line with exit code 2, before any request."""
    result = call("outdated", *arguments)

    assert result.code == 2
    assert words in result.err


def test_a_built_entry_of_the_ledger_takes_precedence(shop: ImageRegistry) -> None:
    """A `built` entry in the ledger takes precedence over the image's labels."""
    app = layered("abY", labels={NAME: f"{shop.address}/base/other:latest", DIGEST: NOW.digest})
    shop.push("shop/app", "2.0.0", app)
    extra = {"base.name": f"{shop.address}/base/node:latest", "base.digest": WAS.digest}
    fields = {"kind": "built", "digest": app.digest, "tag": "2.0.0", "extra": extra}
    recorded = shop.client.post("/v2/shop/app/_boltseal/records", json=fields)
    shop.signed(recorded.json()["index"])
    result = shop.outdated(f"{shop.ref}:2.0.0", f"{shop.ref}@{app.digest}", "--json")
    alone = shop.outdated(f"{shop.ref}@{app.digest}", "--json")

    assert recorded.status_code == 201
    assert (result.code, alone.code) == (0, 0)
    assert {one["by"] for one in (*result.json["results"], *alone.json["results"])} == {"a built entry of the ledger"}


def test_a_running_image_is_checked_by_the_digest_that_it_was_pulled_as(shop: ImageRegistry, tmp_path: Path) -> None:
    """A running image is checked by the digest it was pulled as, though its tag moved; one built locally can't be
    checked."""
    app = layered("abX", annotations={NAME: f"{shop.address}/base/node:latest", DIGEST: WAS.digest})
    fake = FakeEngine()
    fake.container(
        "web", f"{shop.ref}:1.0.0", fake.image("app", f"{shop.ref}:1.0.0", pulled=(f"{shop.ref}@{app.digest}",))
    )
    fake.container("mine", "made:1", fake.image("made", "made:1"))
    shop.push("base/node", "latest", NOW)

    async def asked() -> Run:
        async with fake.listening(tmp_path) as address:
            return await asyncio.to_thread(run, "outdated", "--running", "--host", str(address), "--json")

    ran = asyncio.run(asked())
    found = {result["ref"]: result["status"] for result in ran.json["results"]}

    assert ran.code == 1
    assert found == {f"web: {shop.ref}:1.0.0": "outdated", "made:1": "cannot tell"}
    assert "never pushed" in ran.out


def test_the_hosts_that_still_run_the_old_base_are_named(shop: ImageRegistry, tmp_path: Path) -> None:
    """With several hosts an image is checked once, its containers on each host are named, and a host without an engine is doubt."""
    app = layered("abX", annotations={NAME: f"{shop.address}/base/node:latest", DIGEST: WAS.digest})
    engines = [FakeEngine(), FakeEngine()]
    for engine in engines:
        pulled = engine.image("app", f"{shop.ref}:1.0.0", pulled=(f"{shop.ref}@{app.digest}",))
        engine.container("web", f"{shop.ref}:1.0.0", pulled)
    shop.push("base/node", "latest", NOW)
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    missing = f"unix://{tmp_path}/none.sock"

    async def asked() -> tuple[Run, list[str]]:
        async with engines[0].listening(folders[0]) as one, engines[1].listening(folders[1]) as two:
            hosts = [str(one), str(two)]
            options = [word for host in (*hosts, missing) for word in ("--host", host)]
            return await asyncio.to_thread(run, "outdated", "--running", *options, "--json"), hosts

    ran, hosts = asyncio.run(asked())
    [outdated, unread] = ran.json["results"]

    assert ran.code == 1
    assert (outdated["status"], outdated["runs_on"]) == ("outdated", [f"{host}: web" for host in hosts])
    assert (unread["ref"], unread["status"]) == (missing, "cannot tell")


def test_only_the_platforms_in_use_count(shop: ImageRegistry, tmp_path: Path) -> None:
    """Platforms are those of the option, of the Compose file's project, or of the running container."""
    base = f"{shop.address}/base/node:latest"
    old = layered("abX", annotations={NAME: base, DIGEST: WAS.digest})
    new = layered("acdX", annotations={NAME: base, DIGEST: NOW.digest})
    entries = [
        {**document.descriptor(), "platform": {"os": "linux", "architecture": architecture}}
        for architecture, document in (("amd64", old), ("arm64", new))
    ]
    index = Document(to_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}), OCI_INDEX, ())
    shop.push("base/node", "latest", NOW)
    for document in (old, new):
        shop.push("shop/app", document.digest, document)
    shop.push("shop/app", "2.0.0", index)
    (tmp_path / "compose.yaml").write_text(f"services: {{web: {{image: '{shop.ref}:2.0.0'}}}}\n")
    allow, found = ("--allow", shop.address), {}
    for architecture in ("amd64", "arm64"):
        platform = f"linux/{architecture}"
        (tmp_path / ".boltseal.toml").write_text(f'[verify]\nplatforms = ["{platform}"]\n')
        fake = FakeEngine()
        pulled = fake.image(
            "app", f"{shop.ref}:2.0.0", pulled=(f"{shop.ref}@{index.digest}",), Architecture=architecture
        )
        fake.container("web", f"{shop.ref}:2.0.0", pulled)

        async def asked(fake: FakeEngine = fake) -> Run:
            async with fake.listening(tmp_path) as address:
                return await asyncio.to_thread(run, "outdated", "--running", "--host", str(address))

        found[architecture] = [
            shop.outdated(f"{shop.ref}:2.0.0", "--platform", platform).code,
            shop.outdated("--compose", tmp_path / "compose.yaml", *allow).code,
            asyncio.run(asked()).code,
        ]

    assert found == {"amd64": [1, 1, 1], "arm64": [0, 0, 0]}
    assert shop.outdated(f"{shop.ref}:2.0.0").code == 1
    assert shop.outdated(f"{shop.ref}:2.0.0", "--platform", "no such").code == 2
    assert shop.outdated(f"{shop.ref}:2.0.0", "--platform", "linux/s390x").code == 3


def test_a_private_base_needs_its_login(shop: ImageRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a login a private base is "could not check" with advice; with the login it is compared."""
    keys = tmp_path / "private" / "data.keys"
    keys.mkdir(parents=True, mode=0o700)
    keys.joinpath("htpasswd").write_text(f"dev:{bcrypt.hashpw(b'word', bcrypt.gensalt(4)).decode()}\n")
    with servers.boltseal(tmp_path / "private" / "data") as server:
        private = ImageRegistry(server)
        private.client.auth = ("dev", "word")
        private.push("base/node", "latest", WAS)
        private.client.close()
        fields = {NAME: f"{server.address}/base/node:latest", DIGEST: WAS.digest}
        shop.push("shop/app", "3.0.0", layered("abX", annotations=fields))
        without = shop.outdated(f"{shop.ref}:3.0.0")
        login = base64.b64encode(b"dev:word").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {server.address: {"auth": login}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        with_it = shop.outdated(f"{shop.ref}:3.0.0")

    assert without.code == 3
    assert f"docker login {server.address}" in without.out
    assert with_it.code == 0


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's own settings, and a rebuild program that records its input."""
    folder = tmp_path / "config" / "boltseal"
    folder.mkdir(parents=True)
    program = tmp_path / "rebuild"
    program.write_text(f'#!/bin/sh\ncat > {tmp_path}/event\necho "$@" >> {tmp_path}/recorded\necho rebuilt it\n')
    program.chmod(0o755)
    folder.joinpath("boltseal.toml").write_text(
        f'[[on_outdated]]\ncommand = ["{program}", "{{image}}", "{{base_digest}}"]\n'
    )
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return folder / "boltseal.toml"


def test_a_rebuild_is_requested_once_and_recorded(shop: ImageRegistry, configured: Path, tmp_path: Path) -> None:
    """A rebuild is requested once, and recorded in the state folder and in the ledger of the image's registry."""
    shop.push("base/node", "latest", NOW)
    first = shop.outdated(f"{shop.ref}:1.0.0", "--rebuild")
    again = shop.outdated(f"{shop.ref}:1.0.0", "--rebuild")
    log = call("outdated", "--log", "--json").json["results"]
    by_ledger = wait_until(
        lambda: call("outdated", "--log", "--registry", shop.address, "--json").json["results"], "the entry is signed"
    )

    assert (first.code, again.code) == (1, 1)  # the program that it ran has built nothing
    assert "asking for a rebuild" in first.err
    assert "rebuild done" in first.out
    assert "rebuild" not in again.out
    assert (tmp_path / "recorded").read_text() == f"{shop.ref}:1.0.0 {NOW.digest}\n"
    assert "boltseal.base.outdated.v1" in (tmp_path / "event").read_text()
    assert [(one["status"], one["reason"]) for one in log] == [("asked", ""), ("done", "rebuilt it")]
    assert [(one["ref"], one["status"], one["resolves_to"]) for one in by_ledger] == [
        (f"{shop.ref}:1.0.0", "done", NOW.digest)
    ]


def test_a_failed_rebuild_is_one_line_and_the_others_continue(
    shop: ImageRegistry, configured: Path, tmp_path: Path
) -> None:
    """A failed rebuild is tried as often as configured, and not again for this digest."""
    shop.app("2.0.0", "abY")
    (tmp_path / "rebuild").write_text('#!/bin/sh\ncase "$1" in *:1.0.0) echo "no space left"; exit 4;; esac\n')
    configured.write_text(configured.read_text() + "attempts = 1\n")
    shop.push("base/node", "latest", NOW)
    result = shop.outdated(f"{shop.ref}:1.0.0", f"{shop.ref}:2.0.0", "--rebuild")
    shown = call("outdated", "--log")

    assert result.code == 1
    assert f"rebuild failed  {shop.ref}:1.0.0: exit code 4; no space left" in result.out
    assert f"rebuild done    {shop.ref}:2.0.0" in result.out
    assert "no space left" in " ".join(shown.out.split())
    assert "4 rebuild requests" in shown.err


def test_a_terminated_run_ends_its_children_and_the_next_run_resumes(
    shop: ImageRegistry, configured: Path, tmp_path: Path
) -> None:
    """SIGTERM ends the rebuild programs, and the next run repeats them; it also does after a kill, and ends what that left."""
    shop.push("base/node", "latest", NOW)
    mark, log = tmp_path / "pid", RebuildJournal(ClientState(state_folder()))
    (tmp_path / "rebuild").write_text(f"#!/bin/sh\necho $$ > {mark}.new; mv {mark}.new {mark}; exec sleep 60\n")
    ended = {}
    for number in (signal.SIGTERM, signal.SIGKILL):
        # as in the background of a script, where Ctrl-C is ignored
        deaf = ("env", "--ignore-signal=INT", sys.executable, "-m", "boltseal")
        words = [*deaf, "outdated", f"{shop.ref}:1.0.0", "--rebuild"]
        with subprocess.Popen(words, env=clean_environment(), stderr=subprocess.DEVNULL) as process:
            wait_until(mark.exists, "the rebuild command runs")
            process.send_signal(number)
            ended[number] = process.wait(30)
        pid = int(mark.read_text())
        mark.unlink()
        assert Path(f"/proc/{pid}").exists() is (number == signal.SIGKILL)
    (tmp_path / "rebuild").write_text(f"#!/bin/sh\ntouch {mark}\n")
    shop.outdated(f"{shop.ref}:1.0.0", "--rebuild")

    assert ended == {signal.SIGTERM: 130, signal.SIGKILL: -signal.SIGKILL}
    assert [str(line.outcome) for line in log.lines()] == ["asked", "stopped", "asked", "asked", "done"]
    assert mark.exists()
    wait_until(lambda: not is_running(pid), "what the killed run left is ended")


def is_running(pid: int) -> bool:
    """Return whether a process exists that is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_rebuilds_without_configuration_are_a_usage_error(shop: ImageRegistry) -> None:
    """Only the user's own settings configure rebuilds; a project's file can't."""
    result = shop.outdated(f"{shop.ref}:1.0.0", "--rebuild")

    assert result.code == 2
    assert "has no [[on_outdated]]" in result.err


def test_a_project_can_not_configure_rebuild_programs(shop: ImageRegistry, tmp_path: Path) -> None:
    """A project's settings file has no table for rebuild programs."""
    (tmp_path / ".boltseal.toml").write_text('[[on_outdated]]\ncommand = ["/bin/true"]\n')
    result = call("lock", "--project", tmp_path)

    assert result.code == 2
    assert "on_outdated" in result.err


def test_a_tag_that_should_never_move_is_an_alarm_without_a_rebuild(configured: Path, tmp_path: Path) -> None:
    """At a registry without a ledger `[[tags]]` says which bases are rebuilt by custom; on others none is requested."""
    with servers.docker_registry(tmp_path / "registry") as distribution:
        made = ImageRegistry(distribution)
        base = f"{made.address}/base/node:16.13.1"
        made.push("base/node", "16.13.1", WAS)
        made.push("shop/app", "1", layered("abX", annotations={NAME: base, DIGEST: WAS.digest}))
        made.push("base/node", "16.13.1", NOW)
        alarm = made.outdated(f"{made.ref}:1", "--rebuild")
        requested_before = (tmp_path / "recorded").exists()
        configured.write_text(
            f'[[tags]]\nrepository = "{made.address}/base/**"\nexpect = "rebuilt"\n{configured.read_text()}'
        )
        rebuilt = made.outdated(f"{made.ref}:1", "--rebuild", "--json")
        made.client.close()

    assert (alarm.code, requested_before) == (1, False)
    assert "alarm" in alarm.out
    assert "should never move" in alarm.err
    assert rebuilt.json["results"][0]["expect"] == "rebuilt"
    assert (tmp_path / "recorded").read_text() == f"{made.ref}:1 {NOW.digest}\n"


def test_the_ledger_alone_decides_whether_a_base_may_move(
    shop: ImageRegistry, configured: Path, tmp_path: Path
) -> None:
    """At a registry with a ledger, which never sealed the tag, the move is no alarm, whatever `[[tags]]` says."""
    configured.write_text(f'[[tags]]\nrepository = "{shop.address}/**"\nexpect = "immutable"\n{configured.read_text()}')
    shop.push("base/node", "latest", NOW)
    result = shop.outdated(f"{shop.ref}:1.0.0", "--rebuild", "--json")

    assert (result.code, result.json["results"][0]["expect"]) == (1, None)
    assert (tmp_path / "recorded").exists()
