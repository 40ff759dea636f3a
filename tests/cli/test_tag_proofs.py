"""Commands that rely on a tag of a registry whose ledger is trusted prove it by the ledger, and refuse what it contradicts."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.server.storage.ledger_key import LedgerKeys
from boltseal.server.storage.metadata.migrate import DATABASE_NAME
from tests.cli import program
from tests.images import image, push
from tests.polling import until_signed
from tests.servers import Server

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


async def _publish(server: Server) -> None:
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
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
