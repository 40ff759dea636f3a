"""`boltseal watch`, and `boltseal history` of its records, with a listening registry."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests import servers
from tests.cli import program
from tests.images import image, push
from tests.notify.receivers import HANGS, Inbox, answer, inbox_in_thread
from tests.polling import wait_until
from tests.ports import free_port
from tests.servers import Server
from tests.thread_server import boltseal_in_thread

SHOP = "shop/app"
FLOATS = '[[rule]]\nrepository = "shop/**"\nmode = "floating"\n'

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _no_logins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Use no login and no state of this machine's user."""
    monkeypatch.setenv("BOLTSEAL_STATE", str(tmp_path / "state"))


@pytest.fixture
def foreign(tmp_path: Path) -> Iterator[Server]:
    """Another operator's registry, in which every tag may move."""
    with boltseal_in_thread(tmp_path / "foreign", FLOATS) as server:
        yield server


def publish(server: Server, tag: str, content: str, repository: str = SHOP) -> str:
    document = image(content)

    async def run() -> None:
        async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as client:
            (await push(client, repository, tag, document)).raise_for_status()

    asyncio.run(run())
    return document.digest


def by_tag(run: program.Run) -> dict[str, dict[str, object]]:
    return {one["ref"].rpartition(":")[2]: one for one in run.json["results"] if one["status"] != "log"}


def test_a_moved_release_tag_is_exit_code_1_and_its_history_is_recorded(foreign: Server) -> None:
    """A moved release tag is exit code 1, unchanged ones are not printed, and its history is shown without the
    registry."""
    old = publish(foreign, "1.4.2", "old")
    publish(foreign, "latest", "old")
    refs = [f"{foreign.address}/{SHOP}:1.4.2", f"{foreign.address}/{SHOP}"]
    first, same = program.call("watch", *refs), program.call("watch", *refs)
    new = publish(foreign, "1.4.2", "new")
    publish(foreign, "latest", "new")
    moved, after = program.call("watch", *refs), program.call("watch", *refs, "--json")
    closed = program.call("history", f"127.0.0.1:1/{SHOP}:1.4.2")

    assert [each.code for each in (first, same, moved, after, closed)] == [0, 0, 1, 0, 3]
    assert (first.out, same.out) == ("", "")
    assert "2 tags: 2 seen for the first time; log " in first.err
    assert "2 tags: 2 unchanged; log " in same.err
    assert moved.out.count("ALARM") == 1
    assert all(len(line) < 400 for line in moved.out.splitlines())
    assert f"{refs[1]}:latest moved" in moved.out
    assert {tag: (one["status"], one["was"]) for tag, one in by_tag(after).items()} == {
        "1.4.2": ("same", new),
        "latest": ("same", new),
    }
    assert old != new


def test_history_of_a_foreign_tag_shows_what_watch_recorded(tmp_path: Path) -> None:
    """`history` shows what `watch` recorded if the registry has no history or is gone."""
    port = free_port()
    with servers.boltseal(tmp_path / "foreign", config=FLOATS, port=port) as foreign:
        ref = f"{foreign.address}/{SHOP}:1.4.2"
        digests = []
        for content in ("old", "new"):
            digests.append(publish(foreign, "1.4.2", content))
            program.call("watch", ref)
    result, as_json = program.call("history", ref), program.call("history", ref, "--json")
    never = program.call("history", f"127.0.0.1:{port}/{SHOP}:9.9.9")

    assert (result.code, as_json.code, never.code) == (0, 0, 3)
    assert [(one["status"], one["digest"], one["proven"]) for one in as_json.json["results"]] == [
        ("first", digests[0], False),
        ("moved", digests[1], False),
    ]
    assert "boltseal watch" in result.err
    assert all(len(line) <= 80 for line in result.out.splitlines())


def test_an_alarm_takes_precedence_over_could_not_check(foreign: Server) -> None:
    """Exit code 1 takes precedence over 3, and 3 over 0: an unreachable registry hides no alarm."""
    publish(foreign, "1.4.2", "old")
    good, dead = f"{foreign.address}/{SHOP}:1.4.2", f"127.0.0.1:{free_port()}/{SHOP}:1.4.2"
    unknown = program.call("watch", good, dead, "--json")
    publish(foreign, "1.4.2", "new")
    alarm = program.call("watch", good, dead, "--json")
    absent = program.call("watch", f"{foreign.address}/{SHOP}:1.4.3")

    assert (unknown.code, unknown.json["outcome"]) == (3, "unknown")
    assert (alarm.code, alarm.json["outcome"], absent.code) == (1, "differs", 1)
    assert {one["status"] for one in alarm.json["results"]} == {"moved", "unknown", "log"}
    assert "no such tag" in absent.out


def test_the_tags_of_a_lock_and_of_a_compose_file(foreign: Server, tmp_path: Path) -> None:
    """`watch` skips local builds and digests of locks and Compose files; an unset variable could not be checked."""
    project = tmp_path / "project"
    project.mkdir()
    for tag in ("1.4.2", "1.4.3"):
        publish(foreign, tag, tag)
    name = f"{foreign.address}/{SHOP}"
    (project / "compose.yaml").write_text(
        f"services:\n  a:\n    image: {name}:1.4.2\n  b:\n    image: {name}:1.4.3\n  c:\n    build: .\n"
    )
    assert program.call("lock", "--project", project, "--json").code == 0
    locked = program.call("watch", "--lock", project / "boltseal.lock", "--json")
    composed = program.call("watch", "--compose", project / "compose.yaml", "--json")
    (project / "compose.yaml").write_text(
        f"services:\n  a:\n    image: {name}:${{TAG}}\n  b:\n    image: {name}:1.4.3\n"
    )
    unset = program.call("watch", "--compose", project / "compose.yaml", "--json")

    assert (locked.code, composed.code, unset.code) == (0, 0, 3)
    assert set(by_tag(locked)) == set(by_tag(composed)) == {"1.4.2", "1.4.3"}
    assert by_tag(unset)["1.4.3"]["status"] == "same"


def test_a_file_contacts_no_registry_that_the_user_did_not_allow(tmp_path: Path) -> None:
    """A checked-out file can't make boltseal contact an internal host; the refusal is printed."""
    (tmp_path / "compose.yaml").write_text("services:\n  a:\n    image: registry.internal.example/shop/app:1.4.2\n")
    result = program.call("watch", "--compose", tmp_path / "compose.yaml")

    assert result.code == 3
    assert "--allow registry.internal.example" in result.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "no tag to look at"),
        ((f"node@sha256:{'0' * 64}",), "can never resolve to another image"),
        (("node:16.13", "--every", "6h", "--once"), "exclude each other"),
        (("node:16.13", "--every", "6"), "a whole number and a unit"),
        (("node:16.13", "--every", "1s"), "expected at least 1m"),
        (("--lock", "no.lock"), "no.lock: no such file or folder; check the path"),
        (("--compose", "no.yaml"), "no such file"),
        (("node:16.13", "--extends", "12"), "malformed end of the log"),
        (("Node:16.13",), "lower-case"),
    ],
)
def test_invalid_input_is_a_one_line_error(arguments: tuple[str, ...], says: str) -> None:
    """Invalid input is one line with exit code 2, before any request."""
    result = program.call("watch", *arguments)

    assert result.code == 2
    assert says in result.err


def test_a_changed_observation_log_is_detected(foreign: Server, tmp_path: Path) -> None:
    """A changed line of the log is exit code 3; a consistent other log is exit code 1 for a user with a saved head."""
    publish(foreign, "1.4.2", "old")
    ref = f"{foreign.address}/{SHOP}:1.4.2"
    head = program.call("watch", ref, "--json").json["results"][-1]["head"]
    goes_on = program.call("watch", ref, "--extends", head)
    (tmp_path / "state" / "watch.db").unlink()
    rewritten = program.call("watch", ref, "--extends", head)
    program.call("watch", ref)
    with (tmp_path / "state" / "watch.db").open("r+b") as file:
        raw = file.read()
        file.seek(raw.index(b'{"v":1'))
        file.write(b'{"v":2')
    broken = program.call("watch", ref)

    assert (goes_on.code, rewritten.code, broken.code) == (0, 1, 3)
    assert "does not extend" in rewritten.err
    assert "is corrupt" in broken.err


def test_it_repeats_until_it_is_terminated(foreign: Server) -> None:
    """`--every` prints one answer per round until it is ended; an alarm does not end it."""
    publish(foreign, "1.4.2", "old")
    command = [sys.executable, "-m", "boltseal", "watch", f"{foreign.address}/{SHOP}:1.4.2", "--every", "1m", "--json"]
    watching = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=program.clean_environment()
    )
    assert watching.stdout is not None
    first = watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    out, err = watching.communicate(timeout=30)

    assert '"status": "first"' in first
    assert (out, watching.returncode) == ("", 130)
    assert "Traceback" not in err


def user_settings(tmp_path: Path, box: Inbox, more: str = "") -> None:
    """Write a user's settings file that names this receiver."""
    folder = tmp_path / "empty-home" / "boltseal"
    folder.mkdir(parents=True, exist_ok=True)
    (tmp_path / "secret").write_text("0123456789abcdef0123456789abcdef\n")
    (folder / "boltseal.toml").write_text(
        f'[[notify]]\nurl = "{box.url}"\nsecret_file = "{tmp_path / "secret"}"\n{more}'
    )


def test_alarms_are_notified_and_other_moves_are_not(foreign: Server, tmp_path: Path) -> None:
    """A moved release tag is exit code 1 and notified; a moved `latest` is recorded only."""
    refs = [f"{foreign.address}/{SHOP}:{tag}" for tag in ("1.4.2", "latest")]
    with inbox_in_thread() as box:
        user_settings(tmp_path, box)
        for content in ("old", "new", "new"):
            publish(foreign, "1.4.2", content)
            publish(foreign, "latest", content)
            program.call("watch", *refs)

    (event,) = box.events
    assert (event["type"], event["subject"]) == ("boltseal.tag.moved.v1", refs[0])
    assert (event["data"]["release"], event["data"]["seen_by"]) == (True, "watch")
    assert event["source"].startswith("/boltseal/")
    assert box.header(0, "webhook-signature").startswith("v1,")


def test_the_next_run_notifies_a_receiver_that_was_down(foreign: Server, tmp_path: Path) -> None:
    """If a receiver is down, `watch` says so, ends as usual, and the next run delivers."""
    ref = f"{foreign.address}/{SHOP}:1.4.2"
    with inbox_in_thread(answer("401 No")) as box:
        user_settings(tmp_path, box)
        publish(foreign, "1.4.2", "old")
        program.call("watch", ref)
        publish(foreign, "1.4.2", "new")
        moved = program.call("watch", ref, "--json")
    with sqlite3.connect(tmp_path / "state" / "outbox.db") as database:
        database.execute("UPDATE due SET next_us = 0")
    database.close()
    with inbox_in_thread() as box:
        user_settings(tmp_path, box, 'name = "127.0.0.1"\n')
        later = program.call("watch", ref)

    assert (moved.code, later.code) == (1, 0)
    assert moved.json["outcome"] == "differs"
    assert "1 notification not delivered yet" in moved.err
    assert "delivery to 127.0.0.1 failed" in moved.err
    assert [one["type"] for one in box.events] == ["boltseal.tag.moved.v1"]


def test_a_project_cannot_configure_notifications(tmp_path: Path) -> None:
    """A checked-out project file can't configure a receiver."""
    (tmp_path / ".boltseal.toml").write_text('[[notify]]\nurl = "https://evil.example/"\n')
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    result = program.call("watch", "node:16.13", "--compose", tmp_path / "compose.yaml")

    assert result.code == 2
    assert "unknown table" in result.err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[notify]\nurl = 'https://a.example'\n", "[[notify]]"),
        ("[[notify]]\nurl = 'https://u:hunter2@a.example'\n", "url_file"),
        ("[[notify]]\nurl_file = '/nowhere/hunter2'\n", "can't read its url"),
    ],
)
def test_invalid_receivers_are_refused_before_any_request(tmp_path: Path, text: str, says: str) -> None:
    """Invalid receivers are one line with exit code 2, before any request."""
    folder = tmp_path / "empty-home" / "boltseal"
    folder.mkdir(parents=True)
    (folder / "boltseal.toml").write_text(text)
    result = program.call("watch", "node:16.13")

    assert result.code == 2
    assert says in result.err


def test_an_alarm_whose_delivery_was_killed_is_delivered_by_the_next_run(foreign: Server, tmp_path: Path) -> None:
    """After kill -9 between recording and delivery, the next run delivers the alarm."""
    ref = f"{foreign.address}/{SHOP}:1.4.2"
    publish(foreign, "1.4.2", "old")
    program.call("watch", ref)
    publish(foreign, "1.4.2", "new")
    with inbox_in_thread(HANGS) as box:
        user_settings(tmp_path, box)
        watching = subprocess.Popen(
            [sys.executable, "-m", "boltseal", "watch", ref],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=program.clean_environment(),
        )
        try:
            wait_until(lambda: box.bodies, "an event is being delivered")
        finally:
            watching.kill()
        watching.wait()
        first = box.events[0]["id"]
    with inbox_in_thread() as box:
        user_settings(tmp_path, box, 'name = "127.0.0.1"\n')
        later = program.call("watch", ref)

    assert later.code == 0
    assert [one["id"] for one in box.events] == [first]
