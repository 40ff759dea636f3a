"""The table of verbs, and the outermost shell that turns every way to end into an exit code and at most one line.

Exit codes: 0 holds, 1 does not hold, 2 usage, 3 could not check or a defect, 130 interrupted. A traceback
is shown only with `--debug` or BOLTSEAL_DEBUG.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, NoReturn

import typer

from boltseal.cli import version
from boltseal.cli.accept import accept
from boltseal.cli.backup import backup, restore_backup
from boltseal.cli.build import build as build_image
from boltseal.cli.check import check
from boltseal.cli.collect import collect
from boltseal.cli.compare import compare
from boltseal.cli.config import config
from boltseal.cli.copy import copy
from boltseal.cli.deploy import deploy
from boltseal.cli.diff import diff
from boltseal.cli.digest import digest
from boltseal.cli.expire import expire
from boltseal.cli.explain import explain
from boltseal.cli.fsck import fsck
from boltseal.cli.history import history
from boltseal.cli.inspect import inspect
from boltseal.cli.kept import kept
from boltseal.cli.labels import labels
from boltseal.cli.ledger import ledger
from boltseal.cli.lock import lock
from boltseal.cli.new_tag import new_tag
from boltseal.cli.outdated import outdated
from boltseal.cli.pin import pin
from boltseal.cli.pull import pull
from boltseal.cli.purge import purge
from boltseal.cli.quota import quota
from boltseal.cli.receipt import receipt
from boltseal.cli.releases import releases
from boltseal.cli.restore import restore
from boltseal.cli.restore_local import restore_local
from boltseal.cli.rollback import rollback
from boltseal.cli.rules import rules
from boltseal.cli.running import running
from boltseal.cli.scrub import scrub
from boltseal.cli.seal import seal
from boltseal.cli.serve import serve
from boltseal.cli.tags import tags
from boltseal.cli.token import token
from boltseal.cli.trust import trust
from boltseal.cli.unseal import unseal
from boltseal.cli.update import update
from boltseal.cli.user import user
from boltseal.cli.verify import verify
from boltseal.cli.watch import watch
from boltseal.errors import BoltsealError, ExitCode, exit_code

_IMAGE = "localhost:5000/shop/app:1.4.2"
_SHORT = {
    "accept": "Serve what a held tag of an upstream means now.",
    "collect": "Remove bytes that nothing names, older than a day.",
    "restore-backup": "Make a new data folder of a backup, and check it.",
    "deploy": "Deploy a Compose project; go back if it gets not healthy.",
    "diff": "What changed between two releases.",
    "releases": "What was deployed here, when, by whom, how it ended.",
    "rollback": "Make a project run again as an older release did.",
    "update": "Take what floating tags mean now; propose versions.",
    "copy": "Copy images between registries, files and daemons.",
    "pull": "Pull images; keep the ones that work before.",
    "kept": "List the images that are kept on an engine.",
    "restore-local": "Bring an image back that `pull` has kept, offline.",
    "purge": "Remove an image and its bytes, sealed or not.",
    "fsck": "Check everything in the data folder; changes nothing.",
    "expire": "Take away sealed tags that were kept long enough.",
    "ledger": "The key that signs the ledger; recover a lost one.",
    "quota": "What is left of a registry's pull limit.",
    "scrub": "Is what lies on this host's disk still what was pulled?",
    "restore": "Put a floating tag back to what it meant before.",
    "receipt": "Prove for ever what a tag means: write, or verify.",
    "build": "Build and push with bases by digest; record of what.",
    "outdated": "Which images stand on a base that has moved?",
    "tags": "List the tags of a repository, now or at a time.",
    "watch": "Remember what others' tags mean; say when one moves.",
    "trust": "By which key a registry's ledger is believed.",
    "rules": "Show the rules; `rules test` says which one decides.",
}
"""One line for the list of verbs, where the first sentence of a verb's help is longer than its 60 columns."""

_VERBS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("serve", serve, "boltseal serve --data ./data --listen 127.0.0.1:5000"),
    ("config", config, "boltseal config --config /etc/boltseal/boltseal.toml"),
    ("seal", seal, 'boltseal seal localhost:5000/shop/app:latest --reason "shown to the auditor"'),
    ("unseal", unseal, f'boltseal unseal {_IMAGE} --reason "built for another customer"'),
    ("restore", restore, 'boltseal restore localhost:5000/shop/app:latest --to 2026-11-23 --reason "it crashes"'),
    ("accept", accept, 'boltseal accept docker.io/library/node:16.13 --reason "read the release notes"'),
    ("purge", purge, f'boltseal purge {_IMAGE} --reason "a password was in its second layer"'),
    ("expire", expire, "boltseal expire --data ./data --dry-run"),
    ("fsck", fsck, "boltseal fsck --data ./data"),
    ("collect", collect, "boltseal collect --data ./data --dry-run"),
    ("backup", backup, "boltseal backup /mnt/backup/boltseal --data ./data"),
    ("restore-backup", restore_backup, "boltseal restore-backup /mnt/backup/boltseal --data ./new"),
    ("quota", quota, "boltseal quota docker.io"),
    ("explain", explain, "boltseal explain ouruser/sinatra:v2"),
    ("check", check, f"boltseal check {_IMAGE}"),
    ("digest", digest, f"boltseal digest {_IMAGE}"),
    ("tags", tags, "boltseal tags localhost:5000/shop/app"),
    ("history", history, "boltseal history localhost:5000/shop/app:latest"),
    ("inspect", inspect, f"boltseal inspect {_IMAGE}"),
    ("compare", compare, f"boltseal compare {_IMAGE} registry.example.com/shop/app:1.4.2"),
    ("copy", copy, "boltseal copy localhost:5000/shop/app:build-123 localhost:5000/shop/app:1.4.2"),
    ("pull", pull, "boltseal pull localhost:5000/shop/app:latest --keep 3 --keep-for 30d"),
    ("kept", kept, "boltseal kept localhost:5000/shop/app:latest"),
    ("restore-local", restore_local, "boltseal restore-local localhost:5000/shop/app:latest --to 1"),
    ("scrub", scrub, "boltseal scrub localhost:5000/shop/app:1.4.2"),
    ("running", running, "boltseal running --host ssh://deploy@web1"),
    ("trust", trust, "boltseal trust localhost:5000 localhost:5000+0e5e4e2f+AX..."),
    ("lock", lock, "boltseal lock --update node:16.13"),
    ("pin", pin, "boltseal pin deploy/compose.yaml --write"),
    ("verify", verify, "boltseal verify --github"),
    ("watch", watch, "boltseal watch node:16.13 --lock boltseal.lock"),
    ("outdated", outdated, f"boltseal outdated {_IMAGE}"),
    ("deploy", deploy, "boltseal deploy -f compose.yaml"),
    ("releases", releases, "boltseal releases --project shop"),
    ("update", update, "boltseal update --cooldown 3d"),
    ("rollback", rollback, "boltseal rollback 41 --project shop"),
    ("diff", diff, "boltseal diff 41 42 --project shop"),
    ("build", build_image, "boltseal build . --repository localhost:5000/shop/app"),
    ("new-tag", new_tag, "boltseal new-tag --scheme describe --check localhost:5000/shop/app"),
    ("labels", labels, "boltseal labels | xargs docker build ."),
    ("version", version.version, "boltseal version --json"),
)


@dataclass(slots=True)
class Shell:
    """What the verbs tell the outermost shell: whether a defect shows its traceback."""

    debug: bool = False


def build(called: str | None = None) -> typer.Typer:
    """The command line as typer wants it. `called`: with this verb alone; typer takes a while to get all of them ready."""
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
    for name, verb, example in _VERBS:
        if called in (None, name):
            cli.command(name, short_help=_SHORT.get(name), epilog=f"Example: {example}")(verb)
    if called is not None:
        return cli
    cli.add_typer(user, name="user", epilog="Example: boltseal user add ci")
    cli.add_typer(token, name="token", epilog="Example: boltseal token rotate")
    cli.add_typer(ledger, name="ledger", short_help=_SHORT["ledger"], epilog="Example: boltseal ledger key")
    cli.add_typer(
        receipt,
        name="receipt",
        short_help=_SHORT["receipt"],
        epilog="Example: boltseal receipt localhost:5000/shop/app:1.4.2 -o app.tlog-proof",
    )
    cli.add_typer(
        rules,
        name="rules",
        short_help=_SHORT["rules"],
        epilog="Example: boltseal rules --config examples/boltseal.toml",
    )
    return cli


def run(arguments: Sequence[str] | None = None, cli: typer.Typer | None = None) -> NoReturn:
    """Run one verb and end the process. None: the arguments of this process, and the verbs of `build`."""
    shell = Shell()
    try:
        (cli or build(_called(arguments)))(args=arguments, obj=shell, prog_name="boltseal")
    except BoltsealError as error:
        _say(error.message)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost shell: a defect ends as one line and exit 3
        code = _defect(error, debug=shell.debug)
    else:
        code = ExitCode.HOLDS
    sys.exit(code)


def _called(arguments: Sequence[str] | None) -> str | None:
    """The verb, where it stands first; None for groups, for what is none, and for a shell that asks for completions."""
    first = next(iter(sys.argv[1:] if arguments is None else arguments), "")
    return first if any(name == first for name, _, _ in _VERBS) else None


def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when boltseal itself fails.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=version.short)
    ] = False,
) -> None:
    context.obj.debug = debug


def _defect(error: Exception, *, debug: bool) -> ExitCode:
    from boltseal.config import debug_wanted

    if debug or debug_wanted():
        import traceback

        sys.stderr.write("".join(traceback.format_exception(error)))
        return ExitCode.UNKNOWN
    kind = type(error).__name__
    _say(f"internal error: {kind}: {error}; this is a defect of boltseal: --debug before the verb shows where")
    return ExitCode.UNKNOWN


def _say(message: str) -> None:
    line = " ".join(message.split())
    sys.stderr.write(f"boltseal: {''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)}\n")
