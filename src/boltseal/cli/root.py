"""The table of commands, and the outermost layer: every way to end becomes an exit code and at most one line.

Exit codes: 0 holds, 1 differs, 2 usage, 3 could not check or a defect, 130 interrupted. A traceback is shown only with
`--debug` or BOLTSEAL_DEBUG. The module of a command is imported when the command is called; see `cli.loading`.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, NoReturn, TypeAlias

import typer
import typer.core
import typer.main

from boltseal import __version__
from boltseal.cli.loading import load_module
from boltseal.cli.output import host_error, print_line, say
from boltseal.config import debug_requested
from boltseal.errors import BoltsealError, ExitCode, exit_code

_IMAGE: Final = "localhost:5000/shop/app:1.4.2"
_SERVER: Final = "server"


LoadedCommand: TypeAlias = "typer.core.TyperCommand | typer.core.TyperGroup"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the table. The command `restore-local` is the function `restore_local` of `cli/restore_local.py`.

    `summary`: its line in `boltseal --help`, at most 60 columns. `group`: the module has a `typer.Typer` with subcommands
    instead of a function. `extra`: the extra of the distribution with its dependencies.
    """

    name: str
    summary: str
    example: str
    group: bool = False
    extra: str | None = None

    def load(self) -> LoadedCommand:
        """Import its module and return the command as typer runs it. Raises: ExtraMissing."""
        word = self.name.replace("-", "_").replace(" ", "_")
        module = load_module(f"boltseal.cli.{word}", command=self.name, extra=self.extra)
        declared, epilog = getattr(module, word), f"Example: {self.example}"
        own_name = self.name.rpartition(" ")[2]
        cli = typer.Typer(add_completion=False, rich_markup_mode=None)
        cli.callback()(_no_options)
        if self.group:
            cli.add_typer(declared, name=own_name, epilog=epilog)
        else:
            cli.command(own_name, epilog=epilog)(declared)
        loaded: LoadedCommand = typer.main.get_group(cli).commands[own_name]  # type: ignore[assignment]  # typer types them as its private base class
        return loaded


@dataclass(frozen=True, slots=True)
class Group:
    """A group of commands whose modules are loaded one by one."""

    name: str
    summary: str
    example: str
    help: str


_GROUPS: Final = (
    Group(
        "ledger",
        "Show or rotate the ledger's key; recover or monitor a ledger.",
        "boltseal ledger key",
        "Show or rotate the ledger's key, recover a ledger that is behind, monitor one from outside.",
    ),
)
_COMMANDS: Final = (
    Command("serve", "Run the registry server.", "boltseal serve --data ./data --listen 127.0.0.1:5000", extra=_SERVER),
    Command("health", "Check whether a server responds or is ready.", "boltseal health --ready"),
    Command(
        "config",
        "Show every setting and its source.",
        "boltseal config --config /etc/boltseal/boltseal.toml",
        extra=_SERVER,
    ),
    Command(
        "seal",
        "Seal a mutable tag at its current digest.",
        'boltseal seal localhost:5000/shop/app:latest --reason "shown to the auditor"',
        extra=_SERVER,
    ),
    Command(
        "unseal",
        "Allow a sealed tag to be deleted.",
        f'boltseal unseal {_IMAGE} --reason "built for another customer"',
        extra=_SERVER,
    ),
    Command(
        "restore",
        "Move a mutable tag back to an earlier digest.",
        'boltseal restore localhost:5000/shop/app:latest --to 2026-11-23 --reason "it crashes"',
        extra=_SERVER,
    ),
    Command(
        "accept",
        "Serve an upstream tag's new digest that is held back.",
        'boltseal accept docker.io/library/node:16.13 --reason "read the release notes"',
        extra=_SERVER,
    ),
    Command(
        "purge",
        "Delete an image and its blobs, sealed or not.",
        f'boltseal purge {_IMAGE} --reason "a password was in its second layer"',
        extra=_SERVER,
    ),
    Command(
        "expire",
        "Delete sealed tags whose retention time is over.",
        "boltseal expire --data ./data --dry-run",
        extra=_SERVER,
    ),
    Command(
        "fsck", "Check everything in the data folder; changes nothing.", "boltseal fsck --data ./data", extra=_SERVER
    ),
    Command(
        "collect",
        "Delete unreferenced blobs older than a day.",
        "boltseal collect --data ./data --dry-run",
        extra=_SERVER,
    ),
    Command(
        "backup",
        "Back up the data folder while the server runs.",
        "boltseal backup /mnt/backup/boltseal --data ./data",
        extra=_SERVER,
    ),
    Command(
        "restore-backup",
        "Create a data folder from a backup, and check it.",
        "boltseal restore-backup /mnt/backup/boltseal --data ./new",
        extra=_SERVER,
    ),
    Command("quota", "Show what is left of a registry's pull limit.", "boltseal quota docker.io"),
    Command(
        "explain", "Explain a reference: registry, repository, tag and digest.", "boltseal explain ouruser/sinatra:v2"
    ),
    Command("check", "Check whether a tag may be published.", f"boltseal check {_IMAGE}"),
    Command("digest", "Print the digest that a tag resolves to.", f"boltseal digest {_IMAGE}"),
    Command("tags", "List the tags of a repository, now or at a time.", "boltseal tags localhost:5000/shop/app"),
    Command(
        "history",
        "Show a tag's past digests, with times, users and reasons.",
        "boltseal history localhost:5000/shop/app:latest",
    ),
    Command("inspect", "Show platforms, labels, layers, base and signatures.", f"boltseal inspect {_IMAGE}"),
    Command(
        "compare",
        "Compare two images, and show what differs.",
        f"boltseal compare {_IMAGE} registry.example.com/shop/app:1.4.2",
    ),
    Command(
        "copy",
        "Copy images between registries, files and daemons.",
        f"boltseal copy localhost:5000/shop/app:build-123 {_IMAGE}",
    ),
    Command(
        "pull",
        "Pull images; keep the previous ones.",
        "boltseal pull localhost:5000/shop/app:latest --keep 3 --keep-for 30d",
    ),
    Command("kept", "List the images that are kept on an engine.", "boltseal kept localhost:5000/shop/app:latest"),
    Command(
        "restore-local",
        "Restore an image that `pull` has kept, offline.",
        "boltseal restore-local localhost:5000/shop/app:latest --to 1",
    ),
    Command("scrub", "Verify the images on this host's disk.", f"boltseal scrub {_IMAGE}"),
    Command("running", "Show which image each running container uses.", "boltseal running --host ssh://deploy@web1"),
    Command("trust", "Pin a registry's ledger key.", "boltseal trust localhost:5000 localhost:5000+0e5e4e2f+AX..."),
    Command("lock", "Write the digests that a project's tags resolve to.", "boltseal lock --update node:16.13"),
    Command("pin", "Write digests into project files.", "boltseal pin deploy/compose.yaml --write"),
    Command("verify", "Compare a project with its lock file.", "boltseal verify --github"),
    Command(
        "watch", "Record what tags resolve to; report moved ones.", "boltseal watch node:16.13 --lock boltseal.lock"
    ),
    Command("outdated", "List images whose base image has changed.", f"boltseal outdated {_IMAGE}"),
    Command("deploy", "Deploy a Compose project; roll back if health checks fail.", "boltseal deploy -f compose.yaml"),
    Command("releases", "List releases with time, user and result.", "boltseal releases --project shop"),
    Command("update", "Lock current digests; propose new versions.", "boltseal update --cooldown 3d"),
    Command("rollback", "Deploy an older release again.", "boltseal rollback 41 --project shop"),
    Command("diff", "Show what changed between two releases.", "boltseal diff 41 42 --project shop"),
    Command(
        "build",
        "Build and push with locked base images and labels.",
        "boltseal build . --repository localhost:5000/shop/app",
    ),
    Command(
        "new-tag",
        "Choose the next tag of a repository.",
        "boltseal new-tag --scheme describe --check localhost:5000/shop/app",
    ),
    Command("labels", "Print labels and build arguments for `docker build`.", "boltseal labels | xargs docker build ."),
    Command("version", "Show the version of boltseal and of its runtime.", "boltseal version --json"),
    Command("user", "Add, remove and list users.", "boltseal user add ci", group=True, extra=_SERVER),
    Command("token", "Rotate the key that signs bearer tokens.", "boltseal token rotate", group=True, extra=_SERVER),
    Command(
        "ledger key", "Print the public key that signs the ledger.", "boltseal ledger key --data ./data", extra=_SERVER
    ),
    Command(
        "ledger rotate",
        "Sign the ledger with a new key.",
        'boltseal ledger rotate --data ./data --reason "once a year"',
        extra=_SERVER,
    ),
    Command(
        "ledger recover",
        "Recover a ledger that is behind its signed state.",
        "boltseal ledger recover --from /mnt/old-disk/data --data ./data",
        extra=_SERVER,
    ),
    Command(
        "ledger monitor",
        "Follow a ledger from outside, entry by entry.",
        "boltseal ledger monitor https://registry.example.com --tags",
    ),
    Command(
        "receipt",
        "Write or verify a proof of what a tag resolves to.",
        f"boltseal receipt {_IMAGE} -o app.tlog-proof",
        group=True,
    ),
    Command(
        "rules",
        "Show the rules; `rules test` shows which one decides.",
        "boltseal rules --config examples/boltseal.toml",
        group=True,
        extra=_SERVER,
    ),
)
"""In the order of `boltseal --help`."""


@dataclass(slots=True)
class CommandContext:
    """What the root options pass to the outermost layer. `debug`: a defect shows its traceback."""

    debug: bool = False


class CommandOnDemand(typer.core.TyperCommand):
    """A command of the table in the list of commands. Its module is imported when it is called or completed."""

    def __init__(self, command: Command, epilog: str) -> None:
        super().__init__(command.name.rpartition(" ")[2], help=command.summary, epilog=epilog, rich_markup_mode=None)
        self._command = command

    def loaded(self) -> LoadedCommand:
        """Import the module and return the command as typer runs it. Raises: ExtraMissing."""
        return self._command.load()

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the arguments of the real command."""
        return self.loaded().make_context(info_name, args, parent, **extra)


class _RootGroup(typer.core.TyperGroup):
    """All commands of the table, and those that were added to the typer."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        added = dict(self.commands)
        self.commands.clear()
        groups = {group.name: _group(group) for group in _GROUPS}
        for command in _COMMANDS:
            of, _, name = command.name.rpartition(" ")
            listed = CommandOnDemand(command, f"Example: {command.example}")
            if of:
                groups[of].add_command(listed, name)
                self.commands.setdefault(of, groups[of])
            else:
                self.commands[name] = listed
        self.commands.update(added)


def _group(group: Group) -> typer.core.TyperGroup:
    return typer.core.TyperGroup(
        name=group.name,
        help=group.help,
        short_help=group.summary,
        epilog=f"Example: {group.example}",
        no_args_is_help=True,
        rich_markup_mode=None,
    )


def build() -> typer.Typer:
    """Return the command line. No module of a command is imported yet."""
    cli = typer.Typer(
        name="boltseal",
        help="A container registry with immutable tags, and tools to lock, verify and deploy images.",
        epilog="Example: boltseal serve --help",
        cls=_RootGroup,
        no_args_is_help=True,
        add_completion=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    cli.callback()(_options)
    return cli


def load(name: str) -> LoadedCommand:
    """Import one command of the table. Raises: KeyError, ExtraMissing."""
    return {command.name: command for command in _COMMANDS}[name].load()


def run(arguments: Sequence[str] | None = None, cli: typer.Typer | None = None) -> NoReturn:
    """Run one command and end the process. Defaults: the arguments of this process, and the commands of `build`."""
    context = CommandContext()
    try:
        (cli or build())(args=arguments, obj=context, prog_name="boltseal")
    except BoltsealError as error:
        _say(error.message)
        code = exit_code(error)
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost layer: a defect ends as one line and exit 3
        code = _unexpected(error, debug=context.debug)
    else:
        code = ExitCode.HOLDS
    finally:  # typer ends most commands by itself
        _discard_unwritten()
    sys.exit(code)


def _discard_unwritten() -> None:
    """Drop output that could not be written: Python would try again at exit, and change the exit code."""
    for stream in filter(None, (sys.stdout, sys.stderr)):  # None: closed before the start
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _options(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show a traceback when boltseal itself fails.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    context.obj.debug = debug


def _no_options() -> None:
    """Make typer build a group, also of one command."""


def _show_version(wanted: bool) -> None:
    if wanted:
        print_line(f"boltseal {__version__}")
        raise typer.Exit


def _unexpected(error: Exception, *, debug: bool) -> ExitCode:
    if debug or debug_requested():
        sys.stderr.write("".join(traceback.format_exception(error)))
        return ExitCode.UNKNOWN
    known = host_error(error)
    if known is not None:
        _say(known.message)
        return exit_code(known)
    kind = type(error).__name__
    _say(f"internal error: {kind}: {error}; this is a defect of boltseal: `boltseal --debug COMMAND` shows a traceback")
    return ExitCode.UNKNOWN


def _say(message: str) -> None:
    line = " ".join(message.split())
    say(f"boltseal: {''.join(c if c.isprintable() else ascii(c)[1:-1] for c in line)}")
