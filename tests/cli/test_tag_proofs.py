"""Commands that rely on a tag of a registry whose ledger is trusted prove it by the ledger, and refuse what it contradicts."""

from __future__ import annotations

import asyncio
import json
import re
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import bcrypt
import httpx2
import pytest

import boltseal
from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.cli import program
from tests.images import image, push
from tests.polling import until_signed, wait_until
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

RIGHT, WRONG = image("the published image"), image("another image")


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry with `shop/app`: `1.4.2` sealed at RIGHT, `latest` mutable at RIGHT, and `other` sealed at WRONG."""

    server: Server
    project: Path

    @property
    def ref(self) -> str:
        return f"{self.server.address}/shop/app:1.4.2"

    def tamper(self, statement: str, *values: str) -> None:
        with closing(sqlite3.connect(self.server.folder / DATABASE_NAME, isolation_level=None)) as database:
            database.execute(statement, values)

    def repoint(self, tag: str = "1.4.2") -> None:
        """Let the row of a tag name another image of the repository, as an attacker with access to the database does."""
        self.tamper(
            "UPDATE tag SET digest = ?, canonical = ?, sealed_digest = ?, sealed_canonical = ? WHERE name = ?",
            *[WRONG.digest] * 4,
            tag,
        )


@pytest.fixture
def registry(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    for variable in ("HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / "nobody"))
    for variable in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.delenv(variable, raising=False)
    asyncio.run(_publish(server))
    key = LedgerKeys(server.folder.with_name(f"{server.folder.name}.keys")).key()
    assert key is not None
    assert program.call("ledger", "trust", server.address, str(key.verifier)).code == 0
    project = tmp_path / "project"
    project.mkdir()
    (project / "compose.yaml").write_text(f"services: {{web: {{image: '{server.address}/shop/app:1.4.2'}}}}\n")
    return Registry(server, project)


async def _publish(server: Server, login: tuple[str, str] | None = None) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False, auth=login) as client:
        for tag, document in (("other", WRONG), ("latest", RIGHT), ("1.4.2", RIGHT)):
            answer = await push(client, "shop/app", tag, document)
        await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)


def relying(registry: Registry, tmp_path: Path) -> dict[str, Callable[[], program.Run]]:
    """Return the commands that rely on what a tag resolves to."""
    ref, project = registry.ref, registry.project
    return {
        "digest": lambda: program.call("digest", ref),
        "digest --strict": lambda: program.call("digest", "--strict", ref),
        "check": lambda: program.call("check", ref),
        "inspect": lambda: program.call("inspect", ref),
        "compare": lambda: program.call("compare", ref, ref),
        "copy": lambda: program.call("copy", ref, f"oci:{tmp_path / 'layout'}:app"),
        "pin": lambda: program.call("pin", "--project", project),
        "lock": lambda: program.call("lock", "--project", project),
        "verify": lambda: program.call("verify", "--project", project),
        "lock --update": lambda: program.call("lock", "--update", "--project", project),
        "outdated": lambda: program.call("outdated", ref),
        "update": lambda: program.call("update", "--project", project, "--dry-run"),
        "tag new": lambda: program.call("tag", "new", ref),
        "build": lambda: program.call("build", "--print-labels", "--project", project),
    }


def test_a_false_digest_of_a_sealed_tag_is_an_alarm_in_every_command_that_relies_on_it(
    registry: Registry, tmp_path: Path
) -> None:
    """Each command ends with exit code 1, names the contradiction, and prints no false digest."""
    registry.repoint()
    runs = {
        name: run() for name, run in relying(registry, tmp_path).items() if name not in ("update", "tag new", "build")
    }

    assert {name: run.code for name, run in runs.items()} == dict.fromkeys(runs, 1)
    assert {name: WRONG.digest in run.out for name, run in runs.items()} == dict.fromkeys(runs, False)
    assert all("can't be trusted" in run.err for run in runs.values())
    assert not (registry.project / "boltseal.lock").exists()


def test_a_contradiction_has_a_code_of_its_own_in_json(registry: Registry) -> None:
    """A program can distinguish a ledger that contradicts itself from a state that another program changed meanwhile."""
    registry.repoint()
    done = program.call("digest", "--json", registry.ref)

    assert done.code == 1
    assert [error["code"] for error in json.loads(done.out)["errors"]] == ["MISMATCH"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tag SET digest = NULL, canonical = NULL, media_type = NULL WHERE name = '1.4.2'",
        "UPDATE tag SET digest = NULL, sealed_digest = NULL, sealed_canonical = NULL WHERE name = '1.4.2'",
        "DELETE FROM tag WHERE name = '1.4.2'",
    ],
    ids=["nulled", "nulled and unsealed", "deleted"],
)
def test_a_sealed_tag_that_the_registry_lost_is_not_free(registry: Registry, statement: str) -> None:
    """`check` does not say that a tag may be published whose ledger says that it resolves to an image."""
    registry.tamper(statement)
    run = program.call("check", registry.ref)

    assert (run.code, run.out) == (1, "")
    assert "resolves to nothing, and its last entry" in run.err


def test_json_says_how_a_tag_was_proven(registry: Registry) -> None:
    """A sealed tag by the entry that sealed it; a mutable one by its last entry, with its time and freshness."""
    sealed = program.call("digest", registry.ref, "--json").json["proofs"]
    mutable = program.call("digest", registry.ref.replace("1.4.2", "latest"), "--json").json["proofs"]
    absent = program.call("check", registry.ref.replace("1.4.2", "1.4.3"), "--json").json["proofs"]
    [of_sealed], [of_mutable], [of_absent] = sealed, mutable, absent

    assert (of_sealed["ref"], of_sealed["state"], of_sealed["digest"]) == (registry.ref, "sealed", RIGHT.digest)
    assert (of_sealed["freshness"], of_sealed["entry"], of_sealed["size"]) == (None, 4, 5)
    assert (of_mutable["state"], of_mutable["digest"], of_mutable["entry"]) == ("mutable", RIGHT.digest, 3)
    assert (of_mutable["freshness"], of_mutable["time"][-1]) == ("proven", "Z")
    assert (of_absent["state"], of_absent["digest"], of_absent["entry"]) == ("absent", None, None)
    assert of_absent["freshness"] == "not proven"


def test_a_registry_whose_key_was_not_given_proves_nothing(registry: Registry) -> None:
    """Its tags are resolved as before, and `--json` has no proofs."""
    assert program.call("ledger", "trust", registry.server.address, "--forget").code == 0
    found = program.call("digest", registry.ref, "--json").json

    assert found["outcome"] == "holds"
    assert "proofs" not in found


def test_many_tags_of_a_registry_are_proven_by_one_request(registry: Registry) -> None:
    """`lock` reads the entries of 60 tags at once, and needs no other request for their indices."""
    asyncio.run(_publish_many(registry.server))
    services = "".join(
        f"  s{number}: {{image: '{registry.server.address}/shop/app:2.0.{number}'}}\n" for number in range(60)
    )
    (registry.project / "compose.yaml").write_text(f"services:\n{services}")
    run = program.call("-v", "lock", "--project", registry.project, "--json")

    assert run.code == 0
    assert len(run.json["proofs"]) == 60
    assert run.err.count("/ledger/tags") == 1
    assert run.err.count("/_boltseal/history/") == 0
    assert (registry.project / "boltseal.lock").read_text().count("entry = ") == 60


async def _publish_many(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        for number in range(60):
            answer = await push(client, "shop/app", f"2.0.{number}", RIGHT)
        await until_signed(client, int(answer.headers["boltseal-ledger-index"]) + 1)


def test_a_tag_of_an_upstream_needs_the_key_of_the_observations(tmp_path: Path, registry: Registry) -> None:
    """The mirror's ledger has no entry of it; its log of observations proves it, under a key of its own."""
    config = f'[[upstream]]\nname = "up.example"\nurl = "http://{registry.server.address}"\n'
    with boltseal_in_thread(tmp_path / "mirror", config) as mirror:
        keys = LedgerKeys(tmp_path / "mirror.keys")
        ref = f"{mirror.address}/up.example/shop/app:1.4.2"
        before = program.call("digest", ref)
        trust(mirror.address, keys)
        without_key = program.call("digest", ref)
        trust(f"{mirror.address}/observations", keys.of("observations"))
        proven = program.call("digest", ref, "--json")
        with closing(sqlite3.connect(mirror.folder / DATABASE_NAME, isolation_level=None)) as database:
            database.execute("UPDATE foreign_tag SET digest = ? WHERE name = '1.4.2'", (WRONG.digest,))
        served = program.call("digest", ref)
    [proof] = proven.json["proofs"]

    assert (before.code, without_key.code, proven.code) == (0, 3, 0)
    assert "ledger trust" in without_key.err
    assert (proof["state"], proof["digest"]) == ("observed", RIGHT.digest)
    assert proof["ledger"].endswith("/observations")
    assert served.code == 1 or served.out.strip() == RIGHT.digest


def trust(name: str, keys: LedgerKeys) -> None:
    key = wait_until(keys.key, "the log is signed")
    assert key is not None
    assert program.call("ledger", "trust", name, str(key.verifier)).code == 0


def test_a_user_who_may_only_pull_proves_what_is_pulled(tmp_path: Path, registry: Registry) -> None:
    """Entries need no other right; freshness does, and is not proven without it."""
    data = tmp_path / "users"
    hashed = bcrypt.hashpw(b"pw", bcrypt.gensalt(4)).decode()
    (tmp_path / "users.keys").mkdir(mode=0o700)
    (tmp_path / "users.keys" / "htpasswd").write_text(f"dev:{hashed}\nreader:{hashed}\n")
    grants = (
        '[[auth.grant]]\nusers = ["dev"]\nrepository = "**"\nactions = ["pull", "push"]\n'
        '[[auth.grant]]\nusers = ["reader"]\nrepository = "shop/**"\nactions = ["pull"]\n'
    )
    with boltseal_in_thread(data, grants) as server:
        asyncio.run(_publish(server, ("dev", "pw")))
        trust(server.address, LedgerKeys(tmp_path / "users.keys"))
        logins = tmp_path / "config.json"
        logins.write_text(json.dumps({"auths": {server.address: {"auth": b64encode(b"reader:pw").decode()}}}))
        sealed = program.call("digest", f"{server.address}/shop/app:1.4.2", "--registry-config", logins, "--json")
        mutable = program.call("digest", f"{server.address}/shop/app:latest", "--registry-config", logins, "--json")
        anonymous = program.call("digest", f"{server.address}/shop/app:1.4.2", "--anonymous")

    assert [run.json["proofs"][0]["state"] for run in (sealed, mutable)] == ["sealed", "mutable"]
    assert mutable.json["proofs"][0]["freshness"] == "not proven"
    assert anonymous.code == 3


def test_only_callers_that_compare_with_the_ledger_themselves_resolve_without_a_proof() -> None:
    """Everything else goes through `RegistryClient.resolve`, and every command's connections prove tags."""
    source = Path(boltseal.__file__).parent
    files = {path.relative_to(source).as_posix(): path.read_text() for path in source.rglob("*.py")}
    unproven = {
        name for name, text in files.items() if re.search(r"resolve_unproven|resolve_tags\(.*proven=False", text)
    }
    opened = {name for name, text in files.items() if re.search(r"[= (]Transport\(", text)}

    assert unproven == {
        "client/registry_client.py",
        "client/head_requests.py",
        "client/history.py",
        "client/ledger_monitor/monitor.py",
    }
    assert {name for name in opened if not name.startswith("server/")} == {"commands/registry_access.py"}
