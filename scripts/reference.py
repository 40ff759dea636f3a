"""Writes the generated parts of the reference pages: `python scripts/reference.py` (`make docs` runs it).

A page below docs/reference/ has text by hand around parts between `<!-- generated: NAME -->` and `<!-- end -->`. This
script replaces those parts with what the code declares. With `--check` it writes nothing, and ends with 1 if a page
differs; `make check` runs that as a test.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast, get_args

import msgspec
import typer
from pydantic import BaseModel

from boltseal import events
from boltseal.cli.command_table import SECTIONS
from boltseal.cli.root import build
from boltseal.errors import COMMAND_CODES, EXIT_CODES, HTTP_ANSWERS, CommandErrorCode, ExitCode
from boltseal.policy.grants import GRANT_KEYS
from boltseal.policy.notifications import NOTIFY_KEYS
from boltseal.policy.pipeline_rules import ISSUER_KEYS, ISSUER_RULE_KEYS
from boltseal.policy.quotas import QUOTA_KEYS
from boltseal.policy.rebuild_actions import KEYS as ON_OUTDATED_KEYS
from boltseal.policy.refusals import DETAIL_KEYS, MEANINGS, RefusalReason
from boltseal.policy.rules import RULE_KEYS
from boltseal.policy.setting_keys import SettingKey
from boltseal.policy.tag_expectations import TAGS_KEYS
from boltseal.policy.upstreams import UPSTREAM_KEYS, UPSTREAM_RULE_KEYS
from boltseal.server.api.admin.api_tokens import ApiTokenRoutes
from boltseal.server.api.admin.collection import CollectionRoutes
from boltseal.server.api.admin.expiry import ExpiryRoutes
from boltseal.server.api.admin.hosts import HostRoutes
from boltseal.server.api.admin.operator_reads import OperatorReads
from boltseal.server.api.admin.pipeline_sessions import PipelineSessionRoutes
from boltseal.server.api.admin.refused_pushes import RefusedPushReads
from boltseal.server.api.admin.repository_reads import RepositoryReads
from boltseal.server.api.admin.routes import RIGHTS, Route
from boltseal.server.api.admin.rule_plans import RulePlans
from boltseal.server.api.admin.tag_changes import TagChanges
from boltseal.server.api.admin.users import UserRoutes
from boltseal.server.api.errors import status_of
from boltseal.server.api.refusal_reasons import REASONS
from boltseal.server.page_settings import OidcSettings, UiSettings
from boltseal.server.settings import (
    LIVE_SERVER,
    AuthSettings,
    LedgerSettings,
    LocalSettings,
    OutdatedSettings,
    ServerSettings,
    WitnessServiceSettings,
    WitnessSettings,
)
from boltseal.server.storage_settings import MarkSettings, S3Settings, StorageSettings

PAGES: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"
_MIB: Final = 1024 * 1024
_TABLES: Final[Sequence[tuple[str, type[BaseModel]]]] = (
    ("[server]", ServerSettings),
    ("[storage]", StorageSettings),
    ("[storage.s3]", S3Settings),
    ("[storage.mark]", MarkSettings),
    ("[auth]", AuthSettings),
    ("[auth.oidc]", OidcSettings),
    ("[ui]", UiSettings),
    ("[ledger]", LedgerSettings),
    ("[local]", LocalSettings),
    ("[outdated]", OutdatedSettings),
    ("[[witness]]", WitnessSettings),
    ("[witness_service]", WitnessServiceSettings),
)
_KEY_TABLES: Final[Sequence[tuple[str, Mapping[str, SettingKey]]]] = (
    ("[[auth.grant]]", GRANT_KEYS),
    ("[[auth.quota]]", QUOTA_KEYS),
    ("[[auth.issuer]]", ISSUER_KEYS),
    ("[[auth.issuer.rule]]", ISSUER_RULE_KEYS),
    ("[[rule]]", RULE_KEYS),
    ("[[upstream]]", UPSTREAM_KEYS),
    ("[[upstream.rule]]", UPSTREAM_RULE_KEYS),
    ("[[tags]]", TAGS_KEYS),
    ("[[notify]]", NOTIFY_KEYS),
    ("[[on_outdated]]", ON_OUTDATED_KEYS),
)


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or compare them (`--check`). Return the exit code."""
    outdated = []
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        made = rendered(text)
        if made != text:
            outdated.append(page)
            if "--check" not in arguments:
                page.write_text(made, encoding="utf-8")
    for page in outdated:
        print(f"{page.name}: {'is outdated; run: make docs' if '--check' in arguments else 'written'}")
    return 1 if outdated and "--check" in arguments else 0


def rendered(page: str) -> str:
    """Return a page with every generated part made anew. Raises: KeyError: there is no part of that name."""
    return re.sub(
        r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}\n{PARTS[found[2]]().strip()}\n\n{found[3]}",
        page,
        flags=re.DOTALL,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in lines)


def settings() -> str:
    """Every table of the server's configuration, with its keys, defaults and descriptions."""
    parts = []
    for name, model in _TABLES:
        texts = field_texts(model)
        rows = [
            (f"`{key}`", code(shown_default(field.default)), texts[key])
            for key, field in model.model_fields.items()
            if key in texts
            and (name, key) not in {("[auth]", "grant"), ("[auth]", "issuer"), ("[auth]", "quota"), ("[auth]", "oidc")}
        ]
        parts.append((name, rows))
    for name, keys in _KEY_TABLES:
        rows = [(f"`{key}`", code(about.default), about.description) for key, about in keys.items()]
        parts.append((name, rows))
    return "\n".join(f"### `{name}`\n\n{table(('key', 'default', 'description'), rows)}" for name, rows in parts)


def field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Return the docstring below each field of a class."""
    (declared,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    found = {}
    for field, text in zip(declared.body, declared.body[1:], strict=False):  # type: ignore[attr-defined]  # it is a class
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
            case _:
                pass
    return found


def shown_default(default: object) -> str:
    """Return a default as it is written in TOML; empty for none."""
    if default is None or repr(default) == "PydanticUndefined":
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, int):
        return f"{default // _MIB}MiB" if default >= _MIB else str(default)
    return "[]" if default == () else str(default)


def live_settings() -> str:
    """The settings that a running server applies on SIGHUP."""
    return ", ".join(f"`[server] {name}`" for name in LIVE_SERVER) + "."


def commands() -> str:
    """Every command by section, with its usage, help text, arguments and options."""
    known = dict(walk(typer.main.get_command(build()), ""))
    parts = []
    for section in SECTIONS:
        parts.append(f"## {section.title}\n")
        for entry in section.entries:
            names = [name for name in known if name == entry.name or name.startswith(f"{entry.name} ")]
            parts += [_command(name, known[name]) for name in names]
    return "\n".join(parts)


def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that help lists with its words."""
    if hasattr(command, "loaded"):
        command = command.loaded()
    if command.hidden:
        return
    if name:
        yield name, command
    for word, child in getattr(command, "commands", {}).items():
        yield from walk(child, f"{name} {word}".strip())


def _command(name: str, command: Any) -> str:
    context = typer.Context(command, info_name=f"boltseal {name}")
    usage = " ".join([f"boltseal {name}", *command.collect_usage_pieces(context)])
    lines = [f"### boltseal {name}\n", f"```\n{usage}\n```\n", inspect.cleandoc(command.help or "") + "\n"]
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    if arguments and any(getattr(each, "help", None) for each in arguments):
        lines.append(
            table(("argument", "description"), [(f"`{_metavar(each, context)}`", each.help) for each in arguments])
        )
    if options:
        rows = [(code(_spelling(each, context)), _option_text(each, context)) for each in options]
        lines.append(table(("option", "description"), rows))
    if command.epilog:
        lines.append(f"{command.epilog.partition(': ')[0]}: `{command.epilog.partition(': ')[2]}`\n")
    return "\n".join(lines)


def _metavar(parameter: Any, context: Any) -> str:
    return str(parameter.make_metavar(context))


def _spelling(option: Any, context: Any) -> str:
    names = ", ".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {_metavar(option, context)}"


def _option_text(option: Any, context: Any) -> str:
    record = option.get_help_record(context)
    return "" if record is None else " ".join(str(record[1]).split())


def exit_codes() -> str:
    """Every exit code, and the kinds of errors that end with it."""
    rows = []
    for one in ExitCode:
        kinds = [f"`{kind.__name__}`" for kind, ends in EXIT_CODES.items() if ends is one]
        rows.append((str(one.value), _EXIT_TEXTS[one], ", ".join(kinds)))
    return table(("code", "description", "kinds of errors"), rows)


_EXIT_TEXTS: Final = {
    ExitCode.HOLDS: "success: done, or checked without a finding",
    ExitCode.DIFFERS: "refused, or checked with a finding",
    ExitCode.USAGE: "usage error: an unknown option, an invalid value, a file that is not there",
    ExitCode.UNKNOWN: "could not be checked or done, with the reason; never treated as success",
    ExitCode.INTERRUPTED: "interrupted",
    ExitCode.OUTPUT_CLOSED: "the reader of standard output closed it, as `head -1` does",
}


def http_errors() -> str:
    """Every kind of error with the HTTP status and the code of the response."""
    rows = [
        (f"`{kind.__name__}`", str(answer.status), f"`{answer.code}`", (inspect.getdoc(kind) or "").split("\n")[0])
        for kind, answer in HTTP_ANSWERS.items()
    ]
    return table(("kind", "status", "code", "when"), rows)


def admin_routes() -> str:
    """Every route of the admin API, with its parameters or fields and who may call it."""
    none = cast("Any", None)  # the routes are only described
    parts = (
        RepositoryReads(none, none, none, none),
        RefusedPushReads(none, none),
        TagChanges(none, none),
        RulePlans(none, none),
        OperatorReads(none, none, none),
        ApiTokenRoutes(none),
        HostRoutes(none, none),
        ExpiryRoutes(none),
        CollectionRoutes(none),
        UserRoutes(none),
        PipelineSessionRoutes(none),
    )
    rows = [
        (f"`{route.method} {route.path}`", route.summary, ", ".join(_fields(route)), f"`{route.right}`")
        for part in parts
        for route in part.routes()
    ]
    return table(("route", "what it does", "query or fields", "right"), rows)


def _fields(route: Route) -> Iterator[str]:
    """Yield the names of what a route takes, the required ones marked."""
    for field in msgspec.structs.fields(route.takes):
        yield f"`{field.encode_name}`{'*' if field.required else ''}"


def admin_rights() -> str:
    """Every right that a route needs."""
    return table(("right", "who has it"), [(f"`{right}`", meaning) for right, meaning in RIGHTS.items()])


def error_details() -> str:
    """Every key of an error's `detail`."""
    return table(("key", "meaning"), [(f"`{key}`", meaning) for key, meaning in DETAIL_KEYS.items()])


def error_reasons() -> str:
    """Every reason, with the statuses of the responses that have it."""
    statuses: dict[RefusalReason, set[int]] = {reason: set() for reason in RefusalReason}
    for cls, reason in REASONS.items():
        statuses[reason].add(status_of(cls))
    rows = [
        (f"`{reason}`", ", ".join(map(str, sorted(statuses[reason]))), MEANINGS[reason]) for reason in RefusalReason
    ]
    return table(("reason", "status", "meaning"), rows)


def command_errors() -> str:
    """Every code of an error in the JSON of a command, with its exit code."""
    rows = []
    for one in CommandErrorCode:
        kinds = [kind for kind, each in COMMAND_CODES.items() if each is one]
        exits = {str(EXIT_CODES[kind].value) for kind in kinds} or {str(ExitCode.UNKNOWN.value)}
        rows.append((f"`{one}`", _COMMAND_ERROR_TEXTS[one], ", ".join(sorted(exits))))
    return table(("code", "when", "exit code"), rows)


_COMMAND_ERROR_TEXTS: Final = {
    CommandErrorCode.INVALID: "an argument, option, file or setting is wrong or missing, or a registry does not accept the request",
    CommandErrorCode.NOT_FOUND: "the image, tag or object does not exist, by an answer that says so",
    CommandErrorCode.REFUSED: "a seal or a rule of the registry refuses the change",
    CommandErrorCode.CHANGED: "the state is not the one that the command needs, for example because another program changed it; nothing was done",
    CommandErrorCode.MISMATCH: "a ledger, a history or an image is not the one that is trusted, recorded or requested: do not use it, and do not retry",
    CommandErrorCode.UNAUTHENTICATED: "the registry requires a login, or rejects the one that it got",
    CommandErrorCode.DENIED: "the login lacks the right",
    CommandErrorCode.TOO_LARGE: "a document is over a limit",
    CommandErrorCode.OUT_OF_RANGE: "a byte range that does not exist",
    CommandErrorCode.RATE_LIMITED: "a rate limit; a retry later may succeed",
    CommandErrorCode.UNAVAILABLE: "no answer, or one that can't be used: a refused connection, a time limit, an untrusted certificate",
    CommandErrorCode.NO_SPACE: "a disk is full",
    CommandErrorCode.INTERNAL: "a defect of boltseal",
}


def event_kinds() -> str:
    """Every event with its type, its subject and the keys of its data."""
    by_kind = {cls.kind: cls for cls in get_args(events.Event)}
    rows = [
        (
            f"`{kind}`",
            f"`{events.event_type(kind)}`",
            (inspect.getdoc(by_kind[kind]) or "").split("\n")[0],
            ", ".join(f"`{key}`" for key in by_kind[kind].data_keys()),
        )
        for kind in events.EventKind
    ]
    return table(("event", "type", "when", "keys of `data`"), rows)


def code(text: str) -> str:
    """Return text as inline code; empty stays empty."""
    return f"`{text}`" if text else ""


PARTS: Final[Mapping[str, Callable[[], str]]] = {
    "commands": commands,
    "settings": settings,
    "live-settings": live_settings,
    "exit-codes": exit_codes,
    "admin-rights": admin_rights,
    "admin-routes": admin_routes,
    "http-errors": http_errors,
    "error-details": error_details,
    "error-reasons": error_reasons,
    "command-errors": command_errors,
    "events": event_kinds,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
