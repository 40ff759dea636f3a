"""Rebuilds are requested once, bases first, within limits, and recorded."""

from __future__ import annotations

import asyncio
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from boltseal.client.errors import RemoteDenied
from boltseal.client.state import ClientState, StateUnusable
from boltseal.events import parse_cloud_event
from boltseal.oci.reference import Reference, Tag
from boltseal.policy.rebuild_actions import RebuildAction, parse_on_outdated
from boltseal.policy.tag_expectations import Expect
from boltseal.policy.tag_revisions import next_revision
from boltseal.project.bases.base_report import BaseReport
from boltseal.project.bases.freshness import BaseStatus
from boltseal.project.bases.left_over_group import record_group, terminate_left_over
from boltseal.project.bases.rebuild_journal import JournalLine, RebuildJournal, RebuildOutcome
from boltseal.project.bases.rebuild_requests import AskedElsewhere, RebuildDue, Rebuilder
from boltseal.project.bases.rebuild_runner import post_webhook, run_command
from tests.client.listening import listening
from tests.polling import until
from tests.project.bases.rebuilds import APP, NODE, OURS, base_report, rebuilder, script
from tests.project.bases.samples import digest


@pytest.fixture
def journal(tmp_path: Path) -> RebuildJournal:
    return RebuildJournal(ClientState(tmp_path / "state"))


async def test_a_rebuild_is_requested_once_for_each_new_digest_of_the_base(
    journal: RebuildJournal, tmp_path: Path
) -> None:
    """For each new digest of the base a rebuild is requested once, however often images are scanned."""
    recorded_file = tmp_path / "recorded"
    builder = rebuilder(journal, script(tmp_path, f'echo "$@" >> {recorded_file}; echo built'))
    first = await builder.rebuild([base_report(APP, NODE)])
    again = await builder.rebuild([base_report(APP, NODE)])
    moved = await builder.rebuild([base_report(APP, NODE, "newer")])

    assert [(one.outcome, one.tries, one.summary) for one in first + moved] == [(RebuildOutcome.DONE, 1, "built")] * 2
    assert again == []
    assert recorded_file.read_text().splitlines() == [f"{APP} {NODE} {digest(name)}" for name in ("new", "newer")]
    assert [str(line.outcome) for line in journal.lines()] == ["asked", "done"] * 2


async def test_bases_are_rebuilt_first(journal: RebuildJournal, tmp_path: Path) -> None:
    """Bases are rebuilt first, in whatever order they were found, and current images are left alone."""
    recorded_file = tmp_path / "recorded"
    builder = rebuilder(journal, script(tmp_path, f'echo "$1 $3" >> {recorded_file}'))
    other = base_report("reg.test/x/y:1", NODE, status=BaseStatus.CURRENT)
    first = await builder.rebuild([base_report(APP, OURS, "stale"), base_report(OURS, NODE), other])
    then = await builder.rebuild(
        [base_report(APP, OURS, "built"), base_report(OURS, NODE, status=BaseStatus.CURRENT), other]
    )

    assert [str(one.due.image) for one in first + then] == [OURS, APP]
    assert recorded_file.read_text().splitlines() == [f"{OURS} {digest('new')}", f"{APP} {digest('built')}"]


async def test_a_command_learns_the_tag_to_push(journal: RebuildJournal, tmp_path: Path) -> None:
    """A command gets the revision to push by placeholders, by its environment, and in the event."""
    recorded_file = tmp_path / "recorded"
    words = script(
        tmp_path, f'{{ echo "$1" "$2" "$BOLTSEAL_REBUILD_NEW_IMAGE" "$BOLTSEAL_REBUILD_BASE"; cat; }} > {recorded_file}'
    )

    async def name_new(image: Reference, action: RebuildAction) -> Reference:
        return Reference(image.registry, image.repository, next_revision(Tag("1.4.2"), [], action.revision))

    builder = rebuilder(journal, [words[0], "{new_image}", "{new_tag}"], name_new=name_new)
    await builder.rebuild([base_report("reg.test/shop/app:1.4.2", NODE)])
    line, event = recorded_file.read_text().split("\n", 1)

    assert line == f"reg.test/shop/app:1.4.2.1 1.4.2.1 reg.test/shop/app:1.4.2.1 {NODE}"
    assert parse_cloud_event(event.encode()).data["new_image"] == "reg.test/shop/app:1.4.2.1"


async def test_without_a_tag_to_push_no_command_runs(journal: RebuildJournal, tmp_path: Path) -> None:
    """If the tag of a rebuild can't be determined, its command does not run, and the request fails with the reason."""

    async def name_new(_image: Reference, _action: RebuildAction) -> Reference:
        raise RemoteDenied("no right to list the tags")

    recorded_file = tmp_path / "recorded"
    builder = rebuilder(journal, script(tmp_path, f"touch {recorded_file}"), name_new=name_new)
    [result] = await builder.rebuild([base_report(APP, NODE)])

    assert (result.outcome, recorded_file.exists()) == (RebuildOutcome.FAILED, False)
    assert "no right to list the tags" in result.summary


async def test_only_the_newest_revision_of_a_version_is_rebuilt(journal: RebuildJournal, tmp_path: Path) -> None:
    """Of a sealed tag and its revisions only the newest one is rebuilt, since it replaces the others."""
    names = ("1.4.2", "1.4.2.1", "1.4.3", "1.4.2-alpine")
    reports = [base_report(f"reg.test/shop/app:{name}", NODE) for name in names]
    builder = rebuilder(journal, script(tmp_path, "true"))
    asked = [str(one.due.image).rpartition(":")[2] for one in await builder.rebuild(reports)]

    assert asked == ["1.4.2.1", "1.4.3", "1.4.2-alpine"]


async def test_images_based_on_a_waiting_one_wait_too(journal: RebuildJournal, tmp_path: Path) -> None:
    """An image waits for the rebuild of its base's base too, however many images are in between."""
    top = "reg.test/shop/top:1"
    builder = rebuilder(journal, script(tmp_path, "true"))
    asked = await builder.rebuild([base_report(top, APP), base_report(APP, OURS), base_report(OURS, NODE)])

    assert [str(one.due.image) for one in asked] == [OURS]


async def test_a_base_that_moves_back_and_forth_causes_a_request_each_time(
    journal: RebuildJournal, tmp_path: Path
) -> None:
    """Each move of a base back and forth causes a new request."""
    builder = rebuilder(journal, script(tmp_path, "true"))
    asked = [len(await builder.rebuild([base_report(APP, NODE, now)])) for now in ("new", "new", "back", "new", "new")]

    assert asked == [1, 0, 1, 1, 0]


async def test_an_image_with_two_bases_is_rebuilt_for_either(journal: RebuildJournal, tmp_path: Path) -> None:
    """An image with two bases is rebuilt once if both moved, and a request for one base hides no move of the other."""
    on_node, on_other = base_report(APP, NODE), base_report(APP, "docker.io/library/other:1")
    both = replace(on_node, verdicts=on_node.verdicts + on_other.verdicts)
    builder = rebuilder(journal, script(tmp_path, "true"))
    asked = [await builder.rebuild([each]) for each in (on_node, both, both)]

    assert [[str(one.due.base) for one in each] for each in asked] == [[NODE], ["docker.io/library/other:1"], []]


@pytest.mark.parametrize(
    "answers",
    [
        [base_report(APP, APP)],
        [base_report(APP, OURS), base_report(OURS, APP)],
        [base_report(APP, OURS), base_report(OURS, APP, status=BaseStatus.CURRENT)],
    ],
)
async def test_an_image_based_on_itself_is_not_rebuilt(
    journal: RebuildJournal, tmp_path: Path, answers: list[BaseReport]
) -> None:
    """An image based on itself is not rebuilt, because each rebuild would cause the next."""
    builder = rebuilder(journal, script(tmp_path, "true"))
    above = base_report("reg.test/x/y:1", APP)
    words = builder.plan([*answers, above]).messages(1)
    asked = await builder.rebuild([*answers, above])

    assert [str(one.due.image) for one in asked] == ["reg.test/x/y:1"]
    assert words[0].startswith(f"{APP} is based on itself")
    assert len(words) <= 2


async def test_no_rebuild_is_requested_on_a_base_that_should_never_move(
    journal: RebuildJournal, tmp_path: Path
) -> None:
    """No rebuild takes over the new image of a tag that should never move; others are requested, and so is it when its
    custom is known."""
    builder = rebuilder(journal, script(tmp_path, "true"))
    other = base_report("reg.test/shop/other:1", NODE)
    alarm = base_report(APP, "quay.io/team/base:1.4.2", expect=Expect.IMMUTABLE)
    words = builder.plan([alarm, other]).messages(5)
    first = await builder.rebuild([alarm, other])
    then = await builder.rebuild([base_report(APP, "quay.io/team/base:1.4.2", expect=Expect.REBUILT), other])

    assert [str(one.due.image) for one in first] == ["reg.test/shop/other:1"]
    assert "quay.io/team/base:1.4.2 should never move" in words[0]
    assert 'expect = "rebuilt"' in words[0]
    assert [str(one.due.image) for one in then] == [APP]


async def test_two_concurrent_runs_request_nothing_twice(journal: RebuildJournal, tmp_path: Path) -> None:
    """Of two concurrent runs, the second leaves all requests to the first."""
    recorded_file, begun = tmp_path / "recorded", tmp_path / "begun"
    waits = f"for i in $(seq 600); do test -e {begun} || break; sleep 0.05; done"
    command = script(tmp_path, f"echo $1 >> {recorded_file}; touch {begun}; {waits}")
    answers = [base_report(APP, NODE), base_report("reg.test/x/y:1", NODE)]
    first = asyncio.create_task(rebuilder(journal, command).rebuild(answers))
    await until(begun.exists, "the first run has started its command")
    with pytest.raises(AskedElsewhere):
        await rebuilder(journal, command).rebuild(answers)
    (tmp_path / "rebuild").write_text(f"#!/bin/sh\necho $1 >> {recorded_file}\n")
    begun.unlink()
    await first

    assert recorded_file.read_text().splitlines() == [APP, "reg.test/x/y:1"]


async def test_an_interrupted_run_is_repeated(journal: RebuildJournal, tmp_path: Path) -> None:
    """A rebuild that was interrupted is requested again, however often, and with all attempts that had not ended."""
    recorded_file = tmp_path / "recorded"
    command = script(tmp_path, f"echo $$ > {recorded_file}; exec sleep 60")
    for _ in range(3):
        task = asyncio.create_task(rebuilder(journal, command, attempts=2).rebuild([base_report(APP, NODE)]))
        await until(lambda: recorded_file.exists() and recorded_file.read_text().endswith("\n"), "the command runs")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not _runs(int(recorded_file.read_text()))
        recorded_file.unlink()
    then = await rebuilder(journal, script(tmp_path, "true"), attempts=2).rebuild([base_report(APP, NODE)])

    assert [(str(one.outcome), one.tries) for one in then] == [("done", 1)]
    assert [(str(line.outcome), line.tries) for line in journal.lines()] == [("asked", 0), ("stopped", 0)] * 3 + [
        ("asked", 0),
        ("done", 1),
    ]


async def test_images_based_on_a_failed_one_wait(journal: RebuildJournal, tmp_path: Path) -> None:
    """Images based on one whose rebuild failed are not requested until the next run; others continue."""
    builder = rebuilder(journal, script(tmp_path, 'case "$1" in *ours*) echo broken; exit 9;; esac'))
    answers = [base_report(APP, OURS), base_report(OURS, NODE), base_report("reg.test/x/y:1", NODE)]
    asked = await builder.rebuild(answers)

    assert [(str(one.due.image), str(one.outcome), one.tries) for one in asked] == [
        (OURS, "failed", 2),
        ("reg.test/x/y:1", "done", 1),
    ]
    assert "exit code 9; broken" in asked[0].summary
    assert [str(due.image) for due in builder.due(answers)] == [APP]
    assert await builder.rebuild(answers) == []  # in the same scan; the next one begins anew
    assert [str(one.due.image) for one in await rebuilder(journal, script(tmp_path, "true")).rebuild(answers)] == [APP]


async def test_a_successful_attempt_is_the_last(journal: RebuildJournal, tmp_path: Path) -> None:
    """After a successful attempt, the second of three here, none follows."""
    mark = tmp_path / "mark"
    builder = rebuilder(journal, script(tmp_path, f"test -e {mark} || {{ touch {mark}; exit 1; }}"), attempts=3)
    [asked] = await builder.rebuild([base_report(APP, NODE)])

    assert (asked.outcome, asked.tries) == (RebuildOutcome.DONE, 2)


@pytest.mark.parametrize(
    ("outcome", "again"),
    [
        (RebuildOutcome.ASKED, True),
        (RebuildOutcome.STOPPED, True),
        (RebuildOutcome.DONE, False),
        (RebuildOutcome.FAILED, False),
    ],
)
async def test_a_rebuild_is_requested_again_exactly_if_its_end_was_not_recorded(
    journal: RebuildJournal, tmp_path: Path, outcome: RebuildOutcome, again: bool
) -> None:
    """After a kill the last line has no outcome, so the rebuild is requested again; one that ended is not."""
    journal.append(JournalLine(1, APP, NODE, str(digest("new")), outcome))
    builder = rebuilder(journal, script(tmp_path, "true"))
    [*words] = builder.plan([base_report(APP, NODE)]).messages(9)

    assert [str(one.due.image) for one in await builder.rebuild([base_report(APP, NODE)])] == ([APP] if again else [])
    assert words == (
        [f"{APP}: a rebuild was requested at 1970-01-01 00:00 UTC, it failed; it is not requested again"]
        if outcome is RebuildOutcome.FAILED
        else []
    )


async def test_a_command_that_outlived_a_killed_run_is_ended_before_the_next(
    journal: RebuildJournal, tmp_path: Path
) -> None:
    """The recorded process group of a killed run is ended before the rebuild is requested again."""
    left_over = await asyncio.create_subprocess_exec("sh", "-c", "sleep 60 & exec sleep 60", start_new_session=True)
    with journal.state.writing():
        record_group(journal.path.with_name("rebuilding.group"), left_over.pid)
    journal.append(JournalLine(1, APP, NODE, str(digest("new")), RebuildOutcome.ASKED))
    await rebuilder(journal, script(tmp_path, "true")).rebuild([base_report(APP, NODE)])

    assert await left_over.wait() == -signal.SIGTERM
    assert not journal.path.with_name("rebuilding.group").exists()


@pytest.mark.parametrize("change", [("start", "1"), ("boot", "another-boot"), ("text", "broken")])
async def test_a_process_that_only_has_the_same_id_is_not_ended(tmp_path: Path, change: tuple[str, str]) -> None:
    """A process with the recorded ID, but another start time, or of another boot of the machine, is left alone."""
    other = await asyncio.create_subprocess_exec("sleep", "60", start_new_session=True)
    file = tmp_path / "group"
    record_group(file, other.pid)
    pid, start, boot = file.read_text().split()
    what, value = change
    words = {"start": f"{pid} {value} {boot}", "boot": f"{pid} {start} {value}", "text": value}
    file.write_text(words[what])

    assert terminate_left_over(file) is False
    assert other.returncode is None
    assert _runs(other.pid)
    other.kill()
    await other.wait()


async def test_a_defect_loses_no_rebuild(journal: RebuildJournal, tmp_path: Path) -> None:
    """After a defect in one attempt, the remaining attempts follow."""
    table = {"url": "http://127.0.0.1:9/", "token_env": "T", "attempts": 2}
    builder = Rebuilder(parse_on_outdated([table]), journal, lambda: 1, tokens={}, pause_s=0)
    with pytest.raises(KeyError):
        await builder.rebuild([base_report(APP, NODE)])

    assert [(str(line.outcome), line.tries) for line in journal.lines()] == [("asked", 0), ("stopped", 1)]
    assert [due.tries for due in builder.due([base_report(APP, NODE)])] == [1]


async def test_a_commands_output_is_not_published(journal: RebuildJournal, tmp_path: Path) -> None:
    """A command's output, which may contain a secret, is stored privately and not published."""
    recorded: list[str] = []

    async def record(_due: RebuildDue, _outcome: RebuildOutcome, recorded_file: str) -> None:
        recorded.append(recorded_file)

    builder = rebuilder(journal, script(tmp_path, "echo password=hunter2; exit 4"), record=record, attempts=1)
    [asked] = await builder.rebuild([base_report(APP, NODE)])

    assert "hunter2" in asked.summary
    assert recorded == ["exit code 4"]
    assert journal.path.stat().st_mode & 0o077 == 0


@pytest.mark.slow
async def test_requests_per_run_are_limited(journal: RebuildJournal, tmp_path: Path) -> None:
    """Rebuilds beyond the limit of one run are requested by the next."""
    builder = rebuilder(journal, ["true"])
    answers = [base_report(f"reg.test/shop/app{number}:1", NODE) for number in range(120)]

    assert [len(await builder.rebuild(answers)) for _ in range(3)] == [100, 20, 0]


async def test_a_ledger_that_refuses_the_record_stops_nothing(journal: RebuildJournal, tmp_path: Path) -> None:
    """If the registry's ledger refuses the record, the error is reported and the rebuild counts."""

    async def record(_due: RebuildDue, _outcome: RebuildOutcome, _summary: str) -> None:
        raise RemoteDenied("may not push")

    [asked] = await rebuilder(journal, script(tmp_path, "true"), record=record).rebuild([base_report(APP, NODE)])

    assert (asked.outcome, asked.recorded) == (RebuildOutcome.DONE, "may not push")


async def test_a_command_is_sent_the_event_and_need_not_read_it(tmp_path: Path) -> None:
    """The event is on the command's standard input as a CloudEvent; an unread, large one does not block."""
    well = await run_command(["sh", "-c", "wc -c"], b"x" * 300_000, 20)
    deaf = await run_command(["sh", "-c", "exec true"], b"x" * 300_000, 20)

    assert (well.succeeded, well.summary) == (True, "300000")
    assert deaf.succeeded


@pytest.mark.slow
async def test_a_slow_command_is_terminated_with_its_children(tmp_path: Path) -> None:
    """A command over its time limit is terminated with its children."""
    mark = tmp_path / "pid"
    ran = await run_command(["sh", "-c", f"sleep 60 & echo $! > {mark}; echo begun; wait"], b"", 1)

    assert not ran.succeeded
    assert "longer than 1 s" in ran.summary
    assert "begun" in ran.summary
    assert not _runs(int(mark.read_text()))


async def test_processes_left_by_a_command_are_terminated(tmp_path: Path) -> None:
    """Background processes of a command that has ended are terminated, although they keep its output open."""
    mark = tmp_path / "pid"
    ran = await run_command(["sh", "-c", f"sleep 60 & echo $! > {mark}; echo built"], b"", 20)

    assert (ran.succeeded, ran.summary) == (True, "built")
    assert not _runs(int(mark.read_text()))


@pytest.mark.slow
async def test_a_process_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    """A child that ignores SIGTERM, of a command that has ended, is killed."""
    mark = tmp_path / "pid"
    deaf = f"(trap '' TERM; echo $$ >&2; exec sleep 60) & echo $! > {mark}; sleep 0.2"
    ran = await run_command(["sh", "-c", deaf], b"", 20)

    assert ran.succeeded
    assert not _runs(int(mark.read_text()))


def _runs(pid: int) -> bool:
    """Return whether a process is running rather than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("words", "recorded_file"),
    [
        (["/nonexistent/rebuild"], "can't be run"),
        (["sh", "-c", "kill -9 $$"], "signal 9"),
        (["sh", "-c", "printf 'a\\033[31mb\\n'; exit 3"], "exit code 3; a\\x1b[31mb"),
        (["sh", "-c", "yes | head -c 3000000; exit 1"], "exit code 1; y"),
        (["sh", "-c", "exit 1"], "no output"),
    ],
)
async def test_a_failure_is_one_line(words: list[str], recorded_file: str) -> None:
    """A failure's recorded output is one line, whatever the command printed."""
    ran = await run_command(words, b"", 30)

    assert not ran.succeeded
    assert recorded_file in ran.summary


async def test_a_webhook_gets_event_and_token_and_redirects_are_not_followed(journal: RebuildJournal) -> None:
    """Status 2xx of a webhook is a success; a redirect is not followed, and is a failure like an error."""
    heads: list[bytes] = []
    answers = [
        b"HTTP/1.1 202 OK\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n",
    ]

    async def serve(reader: Any, writer: Any) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        heads.append(head + await reader.readexactly(length))
        writer.write(answers[(len(heads) - 1) % 2])
        await writer.drain()

    async with listening(serve) as port:
        url = f"http://127.0.0.1:{port}/hook"
        actions = parse_on_outdated([{"url": url, "token_env": "T", "attempts": 1}])
        builder = Rebuilder(actions, journal, lambda: 1, tokens={"T": "word"}, pause_s=0)
        [well] = await builder.rebuild([base_report(APP, NODE)])
        [bad] = await builder.rebuild([base_report(APP, NODE, "newer")])
    unreachable = await post_webhook(f"http://127.0.0.1:{port}/", b"{}", 2, None)
    event = parse_cloud_event(heads[0].partition(b"\r\n\r\n")[2])

    assert (well.outcome, well.summary) == (RebuildOutcome.DONE, "HTTP 202")
    assert (bad.outcome, bad.summary, len(heads)) == (RebuildOutcome.FAILED, "HTTP 302", 2)
    assert b"authorization: bearer word" in heads[0].lower()
    assert (event.type, event.data["image"]) == ("boltseal.base.outdated.v1", APP)
    assert not unreachable.succeeded
    assert json.loads(heads[0].partition(b"\r\n\r\n")[2])["specversion"] == "1.0"


async def test_a_webhook_on_this_machine_uses_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook on this machine is called without a proxy, which would see the token."""

    async def serve(reader: Any, writer: Any) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 202 OK\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(variable, raising=False)
    async with listening(serve) as port:
        ran = await post_webhook(f"http://127.0.0.1:{port}/hook", b"{}", 20, "word")

    assert (ran.succeeded, ran.outcome) == (True, "HTTP 202")


def test_an_incomplete_line_is_skipped_and_the_next_is_separate(journal: RebuildJournal) -> None:
    """An incomplete line, as after a full disk or a kill, is skipped, and the next record is on a new line."""
    journal.append(JournalLine(1, APP, NODE, "d", RebuildOutcome.ASKED))
    with journal.path.open("ab") as file:
        file.write(b'{"time_us":2,"ima')
    journal.append(JournalLine(3, APP, NODE, "e", RebuildOutcome.DONE, 1, "line\nbreak"))

    assert {key: line.digest for key, line in journal.last().items()} == {(APP, NODE): "e"}
    assert [(one.digest, one.summary) for one in journal.lines()] == [("d", ""), ("e", "line\\nbreak")]


def test_a_damaged_journal_is_refused(journal: RebuildJournal) -> None:
    """A damaged journal is refused, since it decides what is run."""
    journal.append(JournalLine(1, APP, NODE, "d", RebuildOutcome.ASKED))
    journal.path.write_bytes(b"nonsense\n" + journal.path.read_bytes())
    with pytest.raises(StateUnusable, match="can't be read"):
        journal.lines()


def test_a_truncated_journal_is_read(journal: RebuildJournal) -> None:
    """The complete lines of a truncated journal are read."""
    assert journal.lines() == []
    journal.append(JournalLine(1, APP, NODE, "d", RebuildOutcome.ASKED))
    with journal.path.open("ab") as file:
        file.write(b'{"time_us":2,"ima')

    assert len(journal.lines()) == 1


def test_a_large_journal_is_replaced_by_its_last_lines(tmp_path: Path) -> None:
    """A large journal is replaced by its last lines, and the former file is kept beside it."""
    journal = RebuildJournal(ClientState(tmp_path / "state"), large_bytes=4000)
    for at in range(1, 200):
        journal.append(JournalLine(at, APP, NODE, f"{at}", RebuildOutcome.DONE, 1, "x" * 100))
        journal.append(JournalLine(at, OURS, NODE, "same", RebuildOutcome.DONE, 1))
    old = journal.path.with_name("rebuilds.old.jsonl")

    assert journal.path.stat().st_size < 4000 + 1000
    assert {key: line.digest for key, line in journal.last().items()} == {(APP, NODE): "199", (OURS, NODE): "same"}
    assert old.stat().st_size > 4000
    assert journal.path.stat().st_mode & 0o077 == old.stat().st_mode & 0o077 == 0


def test_beyond_the_size_limit_the_oldest_rebuilds_are_forgotten(tmp_path: Path) -> None:
    """Beyond the size limit, the oldest rebuilds are forgotten, so that many pushes can't block others."""
    journal = RebuildJournal(ClientState(tmp_path / "state"), large_bytes=4000)
    for at in range(1, 200):
        journal.append(JournalLine(at, f"reg.test/shop/app{at}:1", NODE, "d", RebuildOutcome.DONE))
    found = [line.time_us for line in journal.lines()]

    assert found[-1] == 199
    assert found == list(range(found[0], 200))
    assert len(found) >= 10
