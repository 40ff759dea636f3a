"""The table of verbs, and the outermost shell that turns every way to end into an exit code and at most one line.

Exit codes: 0 holds, 1 does not hold, 2 usage, 3 could not check or a defect, 130 interrupted. A traceback
is shown only with `--debug` or BOLTSEAL_DEBUG.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Annotated, Any, Final, NoReturn

import typer

from boltseal import __version__
from boltseal.cli.answer import of_host, print_line, say
from boltseal.cli.extras import missing_extra
from boltseal.errors import BoltsealError, ExitCode, exit_code

_IMAGE = "localhost:5000/shop/app:1.4.2"


@dataclass(frozen=True, slots=True)
class Command:
    """A verb or, where `group`, what several verbs have before their own names. `restore-local` is what its module
    `cli/restore_local.py` calls `restore_local`.

    `short`: its line in the list of verbs, where the first sentence of its help is longer than the 60 columns there.
    """

    name: str
    example: str
    short: str | None = None
    group: bool = False

    def load(self) -> Any:
        """Its function, or its typer. Only now is its module imported: forty take longer than most verbs do."""
        word = self.name.replace("-", "_")
        return getattr(import_module(f"boltseal.cli.{word}"), word)


_VERBS: Final = (
    Command("serve", "boltseal serve --data ./data --listen 127.0.0.1:5000"),
    Command("config", "boltseal config --config /etc/boltseal/boltseal.toml"),
    Command("seal", 'boltseal seal localhost:5000/shop/app:latest --reason "shown to the auditor"'),
    Command("unseal", f'boltseal unseal {_IMAGE} --reason "built for another customer"'),
    Command(
        "restore",
        'boltseal restore localhost:5000/shop/app:latest --to 2026-11-23 --reason "it crashes"',
        "Put a floating tag back to what it meant before.",
    ),
    Command(
        "accept",
        'boltseal accept docker.io/library/node:16.13 --reason "read the release notes"',
        "Serve what a held tag of an upstream means now.",
    ),
    Command(
        "purge",
        f'boltseal purge {_IMAGE} --reason "a password was in its second layer"',
        "Remove an image and its bytes, sealed or not.",
    ),
    Command("expire", "boltseal expire --data ./data --dry-run", "Take away sealed tags that were kept long enough."),
    Command("fsck", "boltseal fsck --data ./data", "Check everything in the data folder; changes nothing."),
    Command(
        "collect", "boltseal collect --data ./data --dry-run", "Remove bytes that nothing names, older than a day."
    ),
    Command("backup", "boltseal backup /mnt/backup/boltseal --data ./data"),
    Command(
        "restore-backup",
        "boltseal restore-backup /mnt/backup/boltseal --data ./new",
        "Make a new data folder of a backup, and check it.",
    ),
    Command("quota", "boltseal quota docker.io", "What is left of a registry's pull limit."),
    Command("explain", "boltseal explain ouruser/sinatra:v2"),
    Command("check", f"boltseal check {_IMAGE}"),
    Command("digest", f"boltseal digest {_IMAGE}"),
    Command("tags", "boltseal tags localhost:5000/shop/app", "List the tags of a repository, now or at a time."),
    Command("history", "boltseal history localhost:5000/shop/app:latest"),
    Command("inspect", f"boltseal inspect {_IMAGE}"),
    Command("compare", f"boltseal compare {_IMAGE} registry.example.com/shop/app:1.4.2"),
    Command(
        "copy",
        "boltseal copy localhost:5000/shop/app:build-123 localhost:5000/shop/app:1.4.2",
        "Copy images between registries, files and daemons.",
    ),
    Command(
        "pull",
        "boltseal pull localhost:5000/shop/app:latest --keep 3 --keep-for 30d",
        "Pull images; keep the ones that work before.",
    ),
    Command("kept", "boltseal kept localhost:5000/shop/app:latest", "List the images that are kept on an engine."),
    Command(
        "restore-local",
        "boltseal restore-local localhost:5000/shop/app:latest --to 1",
        "Bring an image back that `pull` has kept, offline.",
    ),
    Command(
        "scrub",
        "boltseal scrub localhost:5000/shop/app:1.4.2",
        "Is what lies on this host's disk still what was pulled?",
    ),
    Command("running", "boltseal running --host ssh://deploy@web1"),
    Command(
        "trust",
        "boltseal trust localhost:5000 localhost:5000+0e5e4e2f+AX...",
        "By which key a registry's ledger is believed.",
    ),
    Command("lock", "boltseal lock --update node:16.13"),
    Command("pin", "boltseal pin deploy/compose.yaml --write"),
    Command("verify", "boltseal verify --github"),
    Command(
        "watch",
        "boltseal watch node:16.13 --lock boltseal.lock",
        "Remember what others' tags mean; say when one moves.",
    ),
    Command("outdated", f"boltseal outdated {_IMAGE}", "Which images stand on a base that has moved?"),
    Command("deploy", "boltseal deploy -f compose.yaml", "Deploy a Compose project; go back if it gets not healthy."),
    Command("releases", "boltseal releases --project shop", "What was deployed here, when, by whom, how it ended."),
    Command("update", "boltseal update --cooldown 3d", "Take what floating tags mean now; propose versions."),
    Command("rollback", "boltseal rollback 41 --project shop", "Make a project run again as an older release did."),
    Command("diff", "boltseal diff 41 42 --project shop", "What changed between two releases."),
    Command(
        "build",
        "boltseal build . --repository localhost:5000/shop/app",
        "Build and push with bases by digest; record of what.",
    ),
    Command("new-tag", "boltseal new-tag --scheme describe --check localhost:5000/shop/app"),
    Command("labels", "boltseal labels | xargs docker build ."),
    Command("version", "boltseal version --json"),
    Command("user", "boltseal user add ci", group=True),
    Command("token", "boltseal token rotate", group=True),
    Command("ledger", "boltseal ledger key", "The key that signs the ledger; recover a lost one.", group=True),
    Command(
        "receipt",
        f"boltseal receipt {_IMAGE} -o app.tlog-proof",
        "Prove for ever what a tag means: write, or verify.",
        group=True,
    ),
    Command(
        "rules",
        "boltseal rules --config examples/boltseal.toml",
        "Show the rules; `rules test` says which one decides.",
        group=True,
    ),
)
"""In the order of the list that `boltseal --help` prints."""


@dataclass(slots=True)
class CommandContext:
    """What the verbs tell the outermost shell: whether a defect shows its traceback."""

    debug: bool = False


def build(called: str | None = None) -> typer.Typer:
    """The command line as typer wants it. `called`: with this verb alone."""
    cli = typer.Typer(
        name="boltseal",
        help="A container registry in which a published tag never changes.",
        epilog="Example: boltseal serve --help",
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(_options)
    for verb in _VERBS:
        if called not in (None, verb.name):
            continue
        epilog = f"Example: {verb.example}"
        if verb.group:
            cli.add_typer(verb.load(), name=verb.name, short_help=verb.short, epilog=epilog)
        else:
            cli.command(verb.name, short_help=verb.short, epilog=epilog)(verb.load())
    return cli


def run(arguments: Sequence[str] | None = None, cli: typer.Typer | None = None) -> NoReturn:
    """Run one verb and end the process. None: the arguments of this process, and the verbs of `build`."""
    shell = CommandContext()
    try:
        (cli or build(_called(arguments)))(args=arguments, obj=shell, prog_name="boltseal")
    except BoltsealError as error:
        _say(error.message)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost shell: a defect ends as one line and exit 3
        missing = missing_extra(error, f"boltseal {_called(arguments) or ''}".strip())
        if missing is not None and not shell.debug:
            say(missing.message)
            code = exit_code(missing)
        else:
            code = _unexpected(error, debug=shell.debug)
    else:
        code = ExitCode.HOLDS
    finally:  # typer ends most verbs by itself
        _let_go()
    sys.exit(code)


def _let_go() -> None:
    """Drop what nobody took of what was printed: Python would try once more at its end, and make another code of it."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before we began
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _called(arguments: Sequence[str] | None) -> str | None:
    """The verb, where it stands first; None for what is none, and for a shell that asks for completions."""
    first = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    return first if any(verb.name == first for verb in _VERBS) else None


def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when boltseal itself fails.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj.debug = debug


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"boltseal {__version__}")
        raise typer.Exit


def _unexpected(error: Exception, *, debug: bool) -> ExitCode:
    from boltseal.config import debug_requested

    if debug or debug_requested():
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
        return ExitCode.UNKNOWN
    known = of_host(error)
    if known is not None:
        _say(known.message)
        return exit_code(known)
    kind = type(error).__name__
    _say(f"internal error: {kind}: {error}; this is a defect of boltseal: --debug before the verb shows where")
    return ExitCode.UNKNOWN


def _say(message: str) -> None:
    line = " ".join(message.split())
    say(f"boltseal: {''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)}")
