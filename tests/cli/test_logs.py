"""The server's logs: JSON for programs, text for people, and no control characters on a terminal."""

from __future__ import annotations

import json
import logging
import logging.config
from collections.abc import Callable

import httpx2
import pytest
import structlog

from boltseal.server import logs

HOSTILE = "shop\x1b[2J\r\n\u202eapp\x9b"

Capture = pytest.CaptureFixture[str]


def logged(capsys: Capture, *, as_json: bool, level: str = "info") -> Callable[[], str]:
    """Return the stderr output after `configure`."""
    logs.configure(level, as_json=as_json)
    return lambda: capsys.readouterr().err


def test_json_is_one_object_a_line(capsys: Capture) -> None:
    """Each line is a JSON object with event, level, time and fields."""
    lines = logged(capsys, as_json=True)
    structlog.get_logger("x").warning("refused", repository=HOSTILE)
    output = json.loads(lines())

    assert (output["event"], output["level"], output["repository"]) == ("refused", "warning", HOSTILE)
    assert output["time"].endswith("Z")


@pytest.mark.parametrize("as_json", [True, False])
def test_no_control_character_is_written(capsys: Capture, as_json: bool) -> None:
    """A repository name in the log can't clear the screen, fake a line or reverse text."""
    lines = logged(capsys, as_json=as_json)
    structlog.get_logger("x").warning(HOSTILE, repository=HOSTILE, parts=[HOSTILE])
    text = lines()

    assert text.count("\n") == 1
    assert text.rstrip("\n").isprintable()


@pytest.mark.parametrize("as_json", [True, False])
def test_library_lines_have_the_same_format(capsys: Capture, as_json: bool) -> None:
    """Lines of libraries, such as granian's about a worker, have the same format."""
    lines = logged(capsys, as_json=as_json)
    logging.getLogger("_granian").error("Unexpected exit from %s", "worker-1\x1b")
    logging.getLogger("_granian").info("Started worker-1")
    text = lines()

    assert text.count("\n") == 1
    assert "Unexpected exit from worker-1" in text
    assert "\x1b" not in text


def test_text_lines_begin_with_time_and_sentence(capsys: Capture) -> None:
    """Text lines have time, sentence, then fields; unknown fields are left out."""
    lines = logged(capsys, as_json=False)
    structlog.get_logger("x").warning("refused", tag=None, actor="anonymous", reason="tag 1 is sealed")
    date, time, rest = lines().split(" ", 2)

    assert (len(date), len(time)) == (10, 8)
    assert rest == "[warning  ] refused: tag 1 is sealed actor=anonymous\n"


def test_what_is_below_the_level_is_not_written(capsys: Capture) -> None:
    """Events below log_level are not written."""
    lines = logged(capsys, as_json=True, level="warning")
    structlog.get_logger("x").info("rules read again")

    assert lines() == ""


def test_a_traceback_is_part_of_its_event(capsys: Capture) -> None:
    """A defect's traceback is inside its one JSON object."""
    lines = logged(capsys, as_json=True)
    try:
        raise RuntimeError("surprise")
    except RuntimeError:
        structlog.get_logger("x").exception("defect")

    assert "RuntimeError: surprise" in json.loads(lines())["exception"]


@pytest.mark.parametrize(("log_format", "json_"), [("json", True), ("text", False), ("auto", True)])
@pytest.mark.usefixtures("capsys")
def test_logs_are_json_if_stderr_is_no_terminal(log_format: str, json_: bool) -> None:
    """A file or a pipe gets JSON unless configured otherwise."""

    assert logs.wants_json(log_format) is json_


@pytest.mark.parametrize("level", ["info", "debug"])
def test_no_requested_url_is_logged(capsys: Capture, level: str) -> None:
    """No requested URL is logged: a webhook's address and a signed blob URL are secrets."""
    lines = logged(capsys, as_json=True, level=level)

    def answer(_: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(204)

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client:
        client.post("https://hooks.example.com/hunter2")

    assert "hunter2" not in lines()
