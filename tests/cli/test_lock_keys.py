"""The ledger's key in boltseal.lock: when a new machine trusts it, and what is reported when another key signs."""

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
    """A pinned and locked project, whose registry's key was pinned on this machine."""
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
    """Run on a machine without any state."""
    state = {"BOLTSEAL_STATE": str(project.parent / "another machine")}
    return program.call(*arguments, cwd=project, environment=state)


def named(project: Path, key: str) -> None:
    """Return the lock with another key."""
    path = project / "boltseal.lock"
    lines = path.read_text().splitlines()
    at = lines.index("[keys]") + 1
    lines[at] = f'{lines[at].partition(" = ")[0]} = "{key}"'
    path.write_text("\n".join(lines) + "\n")


def test_a_new_machine_trusts_the_key_of_the_lock_with_a_notice(project: Path) -> None:
    """A new machine trusts the lock's key with a notice, until the key is also pinned on that machine."""
    first, again = elsewhere(project, "verify"), elsewhere(project, "lock", "--update")
    lines = (project / "boltseal.lock").read_text().splitlines()
    key = lines[lines.index("[keys]") + 1].partition(" = ")[2].strip('"')

    assert (first.code, again.code) == (0, 0)
    assert "because boltseal.lock names the key that signs it" in first.err
    assert key in first.err


def test_a_key_that_was_pinned_later_is_added_by_an_update(project: Path, server: Server) -> None:
    """`lock --update` adds a key that was pinned later, and its ledger entry; another run changes nothing."""
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


def test_strict_requires_a_key_pinned_on_this_machine(project: Path, server: Server) -> None:
    """With --strict the key must be pinned on this machine; the lock's own key does not count."""
    key = program.call("ledger", "key", "--data", project.parent / "data").out.strip()
    refused = elsewhere(project, "verify", "--strict")
    locking = [elsewhere(project, verb, "--strict") for verb in ("lock", "pin")]
    given = elsewhere(project, "ledger", "trust", server.address, key)
    taken = elsewhere(project, "verify", "--strict")

    assert refused.code == 3
    assert "no key is trusted for the ledger" in refused.out
    assert [run.code for run in locking] == [3, 0]  # an existing lock has the digests, so no registry is asked
    assert (given.code, taken.code) == (0, 0)
    assert "first use" not in taken.err


def test_the_reason_of_several_references_is_printed_once(project: Path) -> None:
    """If no key is trusted for a registry, the sentence is printed for its first reference; --json has it for each."""
    compose = project / "compose.yaml"
    web = compose.read_text().removeprefix("services: {web: ").removesuffix("}\n")
    compose.write_text(f"services:\n  web: {web}\n  job: {web}\n  old: {web}\n")
    shown = elsewhere(project, "verify", "--strict")
    each = elsewhere(project, "verify", "--strict", "--json")

    assert shown.code == 3
    assert shown.out.count("no key is trusted for the ledger") == 1
    assert shown.out.count("the same reason as compose.yaml:2") == 2
    assert all("no key is trusted" in row["reason"] for row in each.json["results"])


@pytest.mark.parametrize("known", [False, True])
def test_a_wrong_key_is_a_finding_of_every_reference(project: Path, known: bool) -> None:
    """If the lock's key did not sign, each reference is a finding, and lock changes nothing."""
    named(project, OTHER)
    before = (project / "boltseal.lock").read_bytes()

    def run(*words: str) -> Run:
        return program.call(*words, cwd=project) if known else elsewhere(project, *words)

    result, shown, locking = run("verify", "--json"), run("verify", "--github"), run("lock", "--update")
    (verdict,) = result.json["results"]

    assert (result.code, verdict["status"], verdict["weight"]) == (1, "other-key", "differs")
    assert OTHER in verdict["reason"]
    assert "::error file=compose.yaml,line=1::" in shown.out
    assert (locking.code, locking.out) == (1, "")
    assert (project / "boltseal.lock").read_bytes() == before
    assert elsewhere(project, "verify", "--offline").code == 0


def test_a_lock_with_a_wrong_key_id_can_not_be_read(project: Path) -> None:
    """A lock whose key has another key's ID cannot be read."""
    named(project, f"{OTHER.split('+')[0]}+00000000+{OTHER.split('+')[2]}")
    result = elsewhere(project, "verify")

    assert result.code == 2
    assert "boltseal.lock: the key of" in result.err
