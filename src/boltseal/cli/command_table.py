"""The table of commands: names, sections of `boltseal --help`, summaries and examples. Imports nothing heavy.

A name with a blank is a command of a group: `tag seal` is the command `seal` of the group `tag`. The command `tag seal` is
the function `tag_seal` of `cli/tag_seal.py`, which is imported when the command is called.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_IMAGE: Final = "localhost:5000/shop/app:1.4.2"
_SERVER: Final = "server"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the table.

    `summary`: its line in `boltseal --help`, at most 60 columns. `aliases`: other spellings of `word`.
    `group`: the module has a `typer.Typer` with subcommands instead of a function. `extra`: the extra of the distribution
    with its dependencies.
    """

    name: str
    summary: str
    example: str
    aliases: tuple[str, ...] = ()
    group: bool = False
    extra: str | None = None

    @property
    def word(self) -> str:
        """Return the name inside the group: `seal` of `tag seal`."""
        return self.name.rpartition(" ")[2]


@dataclass(frozen=True, slots=True)
class Group:
    """A group of commands whose modules are loaded one by one. `summary`: its line in `boltseal --help`."""

    name: str
    summary: str
    help: str
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A section of `boltseal --help`."""

    title: str
    entries: tuple[Command | Group, ...]


SECTIONS: Final = (
    Section(
        "Registry server",
        (
            Command(
                "serve",
                "Run the registry server.",
                "boltseal serve --data ./data --listen 127.0.0.1:5000",
                extra=_SERVER,
            ),
            Group(
                "admin",
                "Check, back up and clean the data folder; manage users.",
                "Work on a registry's data folder, also while the server runs.",
                (
                    Command(
                        "admin fsck",
                        "Check everything in the data folder; changes nothing.",
                        "boltseal admin fsck --data ./data",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin gc",
                        "Delete unreferenced blobs older than a day.",
                        "boltseal admin gc --data ./data --dry-run",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin expire",
                        "Delete sealed tags whose retention time is over.",
                        "boltseal admin expire --data ./data --dry-run",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin backup",
                        "Back up the data folder while the server runs.",
                        "boltseal admin backup /mnt/backup/boltseal --data ./data",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin restore",
                        "Create a data folder from a backup, and check it.",
                        "boltseal admin restore /mnt/backup/boltseal --data ./new",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin user",
                        "Add, remove and list users.",
                        "boltseal admin user add ci",
                        group=True,
                        extra=_SERVER,
                    ),
                    Command(
                        "admin token",
                        "Rotate the key that signs bearer tokens.",
                        "boltseal admin token rotate",
                        group=True,
                        extra=_SERVER,
                    ),
                    Command(
                        "admin config",
                        "Show every setting and its source.",
                        "boltseal admin config --config /etc/boltseal/boltseal.toml",
                        extra=_SERVER,
                    ),
                    Command(
                        "admin rules",
                        "Show the rules; `admin rules test` shows which one decides.",
                        "boltseal admin rules --config examples/boltseal.toml",
                        group=True,
                        extra=_SERVER,
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Images and tags",
        (
            Command("digest", "Print the digest that a tag resolves to.", f"boltseal digest {_IMAGE}"),
            Command(
                "tags",
                "List the tags of a repository, now or at a time.",
                "boltseal tags localhost:5000/shop/app",
                aliases=("ls",),
            ),
            Command("inspect", "Show platforms, labels, layers, base and signatures.", f"boltseal inspect {_IMAGE}"),
            Command(
                "history",
                "Show a tag's past digests, with times, users and reasons.",
                "boltseal history localhost:5000/shop/app:latest",
            ),
            Command("check", "Check whether a tag may be published.", f"boltseal check {_IMAGE}"),
            Command(
                "compare",
                "Compare two images, and show what differs.",
                f"boltseal compare {_IMAGE} registry.example.com/shop/app:1.4.2",
            ),
            Command(
                "copy",
                "Copy images between registries, files and daemons.",
                f"boltseal copy localhost:5000/shop/app:build-123 {_IMAGE}",
                aliases=("cp",),
            ),
            Group(
                "tag",
                "Seal, unseal, restore, accept or purge a tag; choose a new one.",
                "Change what a registry's tags allow, and choose new tags.",
                (
                    Command(
                        "tag seal",
                        "Seal a mutable tag at its current digest.",
                        'boltseal tag seal localhost:5000/shop/app:latest --reason "shown to the auditor"',
                        extra=_SERVER,
                    ),
                    Command(
                        "tag unseal",
                        "Allow a sealed tag to be deleted.",
                        f'boltseal tag unseal {_IMAGE} --reason "built for another customer"',
                        extra=_SERVER,
                    ),
                    Command(
                        "tag restore",
                        "Move a mutable tag back to an earlier digest.",
                        'boltseal tag restore localhost:5000/shop/app:latest --to 2026-11-23 --reason "it crashes"',
                        extra=_SERVER,
                    ),
                    Command(
                        "tag accept",
                        "Serve an upstream tag's new digest that is held back.",
                        'boltseal tag accept docker.io/library/node:16.13 --reason "read the release notes"',
                        extra=_SERVER,
                    ),
                    Command(
                        "tag purge",
                        "Delete an image and its blobs, sealed or not.",
                        f'boltseal tag purge {_IMAGE} --reason "a password was in its second layer"',
                        extra=_SERVER,
                    ),
                    Command(
                        "tag new",
                        "Choose the next tag of a repository.",
                        "boltseal tag new --scheme describe --check localhost:5000/shop/app",
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Projects",
        (
            Command("lock", "Write the digests that a project's tags resolve to.", "boltseal lock --update node:16.13"),
            Command("pin", "Write digests into project files.", "boltseal pin deploy/compose.yaml --write"),
            Command("verify", "Compare a project with its lock file.", "boltseal verify --github"),
            Command("outdated", "List images whose base image has changed.", f"boltseal outdated {_IMAGE}"),
            Command("update", "Lock current digests; propose new versions.", "boltseal update --cooldown 3d"),
            Command(
                "build",
                "Build and push with locked base images and labels.",
                "boltseal build . --repository localhost:5000/shop/app",
            ),
        ),
    ),
    Section(
        "Hosts",
        (
            Command("ps", "Show which image each running container uses.", "boltseal ps --host ssh://deploy@web1"),
            Command(
                "pull",
                "Pull images; keep the previous ones.",
                "boltseal pull localhost:5000/shop/app:latest --keep 3 --keep-for 30d",
            ),
            Group(
                "keep",
                "List or restore the images that `pull` has kept.",
                "List or restore the images that `boltseal pull` has kept on an engine.",
                (
                    Command(
                        "keep ls",
                        "List the images that are kept on an engine.",
                        "boltseal keep ls localhost:5000/shop/app:latest",
                    ),
                    Command(
                        "keep restore",
                        "Restore an image that `pull` has kept, offline.",
                        "boltseal keep restore localhost:5000/shop/app:latest --to 1",
                    ),
                ),
            ),
            Command("scrub", "Verify the images on this host's disk.", f"boltseal scrub {_IMAGE}"),
        ),
    ),
    Section(
        "Deployments",
        (
            Command(
                "deploy",
                "Deploy a Compose project; roll back if health checks fail.",
                "boltseal deploy -f compose.yaml",
            ),
            Command("rollback", "Deploy an older release again.", "boltseal rollback 41 --project-name shop"),
            Group(
                "release",
                "List releases, or show what changed between two.",
                "List the releases of this host, or show what changed between two.",
                (
                    Command(
                        "release ls",
                        "List releases with time, user and result.",
                        "boltseal release ls --project-name shop",
                    ),
                    Command(
                        "release diff",
                        "Show what changed between two releases.",
                        "boltseal release diff 41 42 --project-name shop",
                    ),
                ),
            ),
        ),
    ),
    Section(
        "Upstreams",
        (
            Command(
                "watch",
                "Record what tags resolve to; report moved ones.",
                "boltseal watch node:16.13 --lock boltseal.lock",
            ),
            Command("ratelimit", "Show what is left of a registry's pull limit.", "boltseal ratelimit docker.io"),
        ),
    ),
    Section(
        "Ledger",
        (
            Group(
                "ledger",
                "Trust a registry's ledger, prove a tag, monitor a ledger.",
                "Trust, prove and monitor what a ledger records; show, rotate or recover one.",
                (
                    Command(
                        "ledger trust",
                        "Pin a registry's ledger key.",
                        "boltseal ledger trust localhost:5000 localhost:5000+0e5e4e2f+AX...",
                    ),
                    Command(
                        "ledger receipt",
                        "Write or verify a proof of what a tag resolves to.",
                        f"boltseal ledger receipt {_IMAGE} -o app.tlog-proof",
                        group=True,
                    ),
                    Command(
                        "ledger monitor",
                        "Follow a ledger from outside, entry by entry.",
                        "boltseal ledger monitor https://registry.example.com --tags",
                    ),
                    Command(
                        "ledger key",
                        "Print the public key that signs the ledger.",
                        "boltseal ledger key --data ./data",
                        extra=_SERVER,
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
                ),
            ),
        ),
    ),
    Section(
        "Other",
        (
            Command(
                "explain",
                "Explain a reference: registry, repository, tag and digest.",
                "boltseal explain ouruser/sinatra:v2",
            ),
            Command("version", "Show the version of boltseal and of its runtime.", "boltseal version --json"),
        ),
    ),
)
"""In the order of `boltseal --help`."""


def commands() -> Iterator[Command]:
    """Yield every command of the table, those of groups included."""
    for section in SECTIONS:
        for entry in section.entries:
            yield from entry.commands if isinstance(entry, Group) else (entry,)
