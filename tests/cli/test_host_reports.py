"""`--report` of `ps` and `scrub`, and `boltseal admin host`, with a served registry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import servers
from tests.admin_requests import EVERYTHING, login_of, settings_with_users
from tests.cli import program
from tests.fakes.engine import FakeEngine
from tests.host.scrub.made_stores import DockerStore

pytestmark = pytest.mark.slow  # each starts a server and some commands

CONFIG = f"""
[[auth.grant]]
users = ["boss"]
actions = {json.dumps(EVERYTHING)}
[[auth.grant]]
users = ["ci"]
actions = ["report"]
"""
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[servers.Server]:
    """A registry with an operator and a login for reports alone."""
    settings_with_users(tmp_path / "data")
    with servers.boltseal(tmp_path / "data", config=CONFIG) as running:
        yield running


async def test_what_runs_is_reported_listed_and_forgotten(server: servers.Server, tmp_path: Path) -> None:
    """The report has each container with its digest and no environment; `admin host` shows it, finds it by digest, forgets it."""
    name = f"{server.address}/shop/app:1.4.2"
    engine = FakeEngine()
    engine.container("web", name, engine.image("app", name, pulled=(f"{server.address}/shop/app@{DIGEST}",)))
    reporter, boss = login_of(server, tmp_path, "ci"), login_of(server, tmp_path, "boss")
    to = ("--report", server.address, "--report-as", "web-1", "--report-every", "6h")
    async with engine.listening(tmp_path) as address:
        arguments = ("ps", "--offline", "--host", str(address), *reporter)
        sent = await asyncio.to_thread(program.call, *arguments, *to, "--json", cwd=tmp_path)
        refused = await asyncio.to_thread(program.call, *arguments, *to, "--json", "--anonymous", cwd=tmp_path)
        plain = await asyncio.to_thread(program.call, *arguments, "--json", cwd=tmp_path)
    here = ("--server", server.address, *boss)
    listed = await asyncio.to_thread(program.call, "admin", "host", "ls", *here, "--json", cwd=tmp_path)
    found = await asyncio.to_thread(
        program.call, "admin", "host", "ls", "--digest", DIGEST, *here, "--json", cwd=tmp_path
    )
    shown = await asyncio.to_thread(program.call, "admin", "host", "show", "web-1", *here, cwd=tmp_path)
    gone = await asyncio.to_thread(program.call, "admin", "host", "forget", "web-1", *here, "--json", cwd=tmp_path)
    after = await asyncio.to_thread(program.call, "admin", "host", "ls", *here, cwd=tmp_path)

    assert (sent.code, sent.json["report"]["host"], sent.json["report"]["error"]) == (0, "web-1", None)
    assert (refused.code, refused.json["outcome"], refused.json["results"]) == (0, "holds", plain.json["results"])
    assert refused.json["report"]["received"] is None
    assert refused.json["report"]["error"]["code"] == "UNAUTHENTICATED"
    assert "boltseal: not reported to" in refused.err
    assert "report" not in plain.json
    assert [(each["ref"], each["status"], each["login"]) for each in listed.json["results"]] == [
        ("web-1", "reporting", "ci")
    ]
    image = found.json["results"][0]["image"]
    assert (image["name"], DIGEST in image["digests"]) == ("web", True)
    assert set(image) == {
        "reference", "digests", "locked", "status", "state", "project", "service", "name", "since", "reason"
    }  # fmt: skip
    assert "web-1: reporting" in shown.out
    assert DIGEST in shown.out
    assert gone.json["results"][0]["status"] == "forgotten"
    assert "no host has reported" in after.err


def test_a_scrub_reports_what_it_found_and_keeps_its_exit_code(server: servers.Server, tmp_path: Path) -> None:
    """An image that differs is in the report; a registry that is down changes neither the result nor the exit code."""
    store = DockerStore.at(tmp_path)
    store.image("shop/app:1.4.2", {"etc/passwd": b"root"}, {"bin/tool": b"tool" * 1000})
    arguments = (
        "scrub",
        "--root",
        str(store.root),
        "--no-lock",
        "--report-as",
        "web-1",
        *login_of(server, tmp_path, "ci"),
    )
    sent = program.call(*arguments, "--report", server.address, "--json", cwd=tmp_path)
    lost = program.call(*arguments, "--report", "127.0.0.1:9", "--json", cwd=tmp_path)
    boss = ("--server", server.address, *login_of(server, tmp_path, "boss"))
    listed = program.call("admin", "host", "ls", *boss, "--json", cwd=tmp_path)
    (report,) = listed.json["results"][0]["reports"]

    assert sent.json["report"]["error"] is None
    assert (lost.code, lost.json["outcome"], lost.json["results"]) == (
        sent.code,
        sent.json["outcome"],
        sent.json["results"],
    )
    assert lost.json["report"]["error"]["code"] == "UNAVAILABLE"
    assert (report["kind"], report["subject"], report["outcome"]) == (
        "scrub",
        f"full {store.root}",
        sent.json["outcome"],
    )
    assert report["counts"]["holds"] == sum(each["status"] == "holds" for each in sent.json["results"])


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            ("ps", "--report", "registry.example", "--kube", "prod", "--namespace", "shop"),
            "--report is about all containers of one engine",
        ),
        (("ps", "--report", "registry.example", "--kube", "prod"), "--report with --kube needs --report-as NAME"),
        (("ps", "--report", "http://registry.example"), "without TLS"),
        (("ps", "--report", "registry.example", "--report-as", "Web 1"), "is not a name of a host"),
        (("ps", "--report-as", "web-1"), "need --report"),
        (("ps", "--report", "registry.example", "--host", "ssh://web1"), "name that host with --report-as"),
        (("scrub", "shop/app:1", "--report", "registry.example"), "leave out IMAGE"),
        (("admin", "host", "ls", "--server", "registry.example", "--tag", "1"), "--tag needs --repository"),
    ],
)
def test_options_that_cannot_be_reported_are_refused_before_anything_is_done(
    tmp_path: Path, arguments: tuple[str, ...], expected: str
) -> None:
    """Exit code 2, with what to do."""
    done = program.call(*arguments, cwd=tmp_path)

    assert done.code == 2
    assert expected in " ".join(done.err.split())
