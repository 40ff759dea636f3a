"""Configures logging: structlog, one event per line on stderr; text on a terminal, otherwise JSON.

Lines of granian and all libraries are formatted here as well. Clients control parts of many events (names, paths, media
types), so no control character reaches a terminal or a log file: JSON escapes them, and `escape` does so for text.
"""

from __future__ import annotations

import json
import logging
import logging.config
import os
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec
import structlog

if TYPE_CHECKING:  # the parent process runs without HTTP code
    from boltseal.server.api.access_log import AccessLogLine

Event: TypeAlias = MutableMapping[str, Any]
Processor: TypeAlias = Callable[[Any, str, Event], Event | str | bytes]

QUIET: Final = ("_granian", "alembic", "sqlalchemy")
"""Libraries of which only warnings are logged."""
SECRETIVE: Final = ("httpcore2", "httpx2")
"""Libraries that log the full URL of each request, which may contain the secret of a webhook or the signed URL of a
blob: only their warnings are logged, at every level.
"""


def wants_json(log_format: str) -> bool:
    """Return whether to write JSON: as configured, or if stderr is not a terminal."""
    return log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())


def configure(level: str, *, as_json: bool) -> None:
    """Configure logging of this process."""
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*_shared(), structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    logging.config.dictConfig(dict_config(level, as_json=as_json))


def access_writer(level: str, *, as_json: bool) -> Callable[[Sequence[AccessLogLine]], None] | None:
    """Return a function that writes lines of the access log to stderr, or None if the level excludes them.

    It bypasses structlog's processors, which take longer for a line than the registry takes for a pull.
    """
    if logging.getLevelNamesMapping()[level.upper()] > logging.INFO:
        return None
    render = _access_json if as_json else _access_text

    def write(lines: Sequence[AccessLogLine]) -> None:
        text = b"".join(map(render, lines))
        while text:
            text = text[os.write(sys.stderr.fileno(), text) :]

    return write


def _access_json(line: AccessLogLine) -> bytes:
    fields = (msgspec.json.encode if line.path.isascii() and line.path.isprintable() else _escaped)(line)
    _, comma, rest = fields.partition(b",")
    prefix = f'{{"time":"{_iso(line.time_ns)}","level":"info","event":"request"'.encode("ascii")
    return b"".join((prefix, comma, rest, b"\n"))


def _escaped(line: AccessLogLine) -> bytes:
    """Return the fields as ASCII JSON, so that no character can control a terminal or end a line."""
    return json.dumps(msgspec.to_builtins(line), separators=(",", ":")).encode("ascii")


def _access_text(line: AccessLogLine) -> bytes:
    shown = " ".join(_printable_word(text) for text in (line.address, line.actor, line.method, line.path))
    sizes = f"in={line.bytes_in} out={line.bytes_out} ms={line.ms} id={line.request_id}"
    asked = f" asked={_printable_word(line.asked)}" if line.asked else ""
    fault = f" fault={_printable_word(line.fault)}" if line.fault else ""
    return f"{_iso(line.time_ns)} [info     ] request {shown} {line.status} {sizes}{asked}{fault}\n".encode("ascii")


def _printable_word(text: str) -> str:
    """Return text as one word of printable ASCII, so that it cannot end a line, a field or a colour."""
    if text.isascii() and text.isprintable() and " " not in text:
        return text or "-"
    return "".join(c if "!" <= c <= "~" else "\\x20" if c == " " else ascii(c)[1:-1] for c in text) or "-"


def _iso(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def dict_config(level: str, *, as_json: bool) -> dict[str, Any]:
    """Return the logging configuration for `logging.config`, as granian requires it."""
    render: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [
            escape,
            for_people,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            ),
        ]
    )
    quiet = {name: {"level": "DEBUG" if level == "debug" else "WARNING"} for name in QUIET}
    quiet |= {name: {"level": "WARNING"} for name in SECRETIVE}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "event": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": _shared(),
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render],
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "stream": "ext://sys.stderr", "formatter": "event"}},
        "root": {"handlers": ["stderr"], "level": level.upper()},
        "loggers": quiet,
    }


def escape(_: Any, __: str, event: Event) -> Event:
    """Escape the control characters and other invisible characters of every text of an event."""
    for key, value in event.items():
        if isinstance(value, str) and key != "exception":
            event[key] = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in value)
    return event


def for_people(_: Any, __: str, event: Event) -> Event:
    """Return an event in reading order: time, event, reason, then the other fields that have a value."""
    kept: Event = {key: value for key, value in event.items() if value is not None}
    kept["timestamp"] = str(kept.pop("time", ""))[:19].replace("T", " ")
    if "reason" in kept:
        kept["event"] = f"{kept['event']}: {kept.pop('reason')}"
    return kept


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
