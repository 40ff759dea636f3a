"""The ledger's key in boltseal.lock: what a new machine believes a registry by, and what is said when another one signs."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.note import SigningKey
from tests.cli import program
from tests.cli.program import Run
from tests.images import image, push
from tests.servers import Server

pytestmark = pytest.mark.slow
OTHER = str(SigningKey("registry.example.com", b"o" * 32).verifier)


@pytest.fixture
async def project(server: Server, tmp_path: Path) -> Path:
    """A pinned and locked project; this machine was given the registry's key before."""
    app = image("app")
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
        assert (await push(client, "shop/app", "1.4.2", app)).status_code == 201
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "compose.yaml").write_text(
        f"services: {{web: {{image: '{server.address}/shop/app:1.4.2@{app.digest}'}}}}\n"
    )
    key = program.call("ledger", "key", "--data", tmp_path / "data").out.strip()
    assert program.call("ledger", "trust", server.address, key).code == 0
    assert program.call("lock", cwd=folder).code == 0
    assert key in (folder / "boltseal.lock").read_text()
    return folder


def elsewhere(project: Path, *arguments: str) -> Run:
    """On a machine that knows nothing yet."""
    state = {"BOLTSEAL_STATE": str(project.parent / "another machine")}
    return program.call(*arguments, cwd=project, environment=state)


def named(project: Path, key: str) -> None:
    """The lock with another key."""
    path = project / "boltseal.lock"
    lines = path.read_text().splitlines()
    at = lines.index("[keys]") + 1
    lines[at] = f'{lines[at].partition(" = ")[0]} = "{key}"'
    path.write_text("\n".join(lines) + "\n")


def test_a_new_machine_trusts_the_key_of_the_lock_with_a_notice(project: Path) -> None:
    """By verify and by lock, which keeps the key; once it has been given here too, nothing is said any more."""
    first, again = elsewhere(project, "verify"), elsewhere(project, "lock", "--update")
    lines = (project / "boltseal.lock").read_text().splitlines()
    key = lines[lines.index("[keys]") + 1].partition(" = ")[2].strip('"')

    assert (first.code, again.code) == (0, 0)
    assert "because boltseal.lock names the key that signs it" in first.err
    assert key in first.err


def test_a_key_that_was_given_later_is_taken_up_by_an_update(project: Path, server: Server) -> None:
    """And the entry with it; running it again without one changes nothing."""
    (project / "boltseal.lock").unlink()
    key = program.call("ledger", "key", "--data", project.parent / "data").out.strip()
    without = elsewhere(project, "lock")
    path = project / "boltseal.lock"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("entry = ")]
    path.write_text("\n".join(lines) + "\n")
    bare = path.read_text()
    elsewhere(project, "ledger", "trust", server.address, key)
    again, same = elsewhere(project, "lock"), path.read_text()
    updated = elsewhere(project, "lock", "--update")

    assert (without.code, again.code, updated.code) == (0, 0, 0)
    assert (bare, key in bare) == (same, False)
    assert f'"{server.address}" = "{key}"' in path.read_text()
    assert "entry = 2" in path.read_text()


def test_strict_wants_a_key_that_was_given_to_this_machine(project: Path, server: Server) -> None:
    """The lock came with the project; `boltseal ledger trust` did not."""
    key = program.call("ledger", "key", "--data", project.parent / "data").out.strip()
    refused = elsewhere(project, "verify", "--strict")
    locking = [elsewhere(project, verb, "--strict") for verb in ("lock", "pin")]
    given = elsewhere(project, "ledger", "trust", server.address, key)
    taken = elsewhere(project, "verify", "--strict")

    assert refused.code == 3
    assert "no key is trusted for the ledger" in refused.out
    assert [run.code for run in locking] == [3, 0]  # a lock that is there says what to pin: nobody is asked
    assert (given.code, taken.code) == (0, 0)
    assert "first use" not in taken.err


@pytest.mark.parametrize("known", [False, True])
def test_a_key_that_does_not_sign_is_a_finding_of_every_reference(project: Path, known: bool) -> None:
    """Either the lock lies or the registry does; nothing of it is locked anew, and the lock stays."""
    named(project, OTHER)
    before = (project / "boltseal.lock").read_bytes()

    def run(*words: str) -> Run:
        return program.call(*words, cwd=project) if known else elsewhere(project, *words)

    told, shown, locking = run("verify", "--json"), run("verify", "--github"), run("lock", "--update")
    (verdict,) = told.json["results"]

    assert (told.code, verdict["status"], verdict["weight"]) == (1, "other-key", "differs")
    assert OTHER in verdict["reason"]
    assert "::error file=compose.yaml,line=1::" in shown.out
    assert (locking.code, locking.out) == (1, "")
    assert (project / "boltseal.lock").read_bytes() == before
    assert elsewhere(project, "verify", "--offline").code == 0


def test_what_is_no_key_is_a_lock_that_can_not_be_read(project: Path) -> None:
    """Its letters fit, and its ID is another's."""
    named(project, f"{OTHER.split('+')[0]}+00000000+{OTHER.split('+')[2]}")
    told = elsewhere(project, "verify")

    assert told.code == 2
    assert "boltseal.lock: the key of" in told.err
