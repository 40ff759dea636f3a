"""The commands whose work is measured at several sizes, and those that need no measurement."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from boltseal.server.storage.ledger_key import LedgerKeys
from tests.cli.program import Run, call
from tests.images import digest_of
from tests.scale.big_store import manifest
from tests.scale.route_cases import REFERRED_DIGEST

SERVICES: Final = 30
"""Of this many tags of the registry one is in the project: its locking takes several requests for each."""


@dataclass(slots=True)
class Place:
    """A data folder of some size, the address of a server of another copy of it, and an empty folder."""

    data: Path
    address: str
    size: int
    folder: Path

    def call(self, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> Run:
        """Run a command in this process and check its exit code."""
        done = call(*arguments)

        assert done.code in codes, f"{arguments}: {done.code} {done.err[-500:]}"
        return done

    def on_data(self, *arguments: str | Path, codes: tuple[int, ...] = (0,)) -> Run:
        """Run a command on the data folder."""
        return self.call(*arguments, "--data", self.data, codes=codes)

    def image(self, named: str) -> str:
        """Return a reference to an image of the server."""
        return f"{self.address}/{named}"

    @property
    def middle(self) -> str:
        """The number of a thing in the middle of a list."""
        return f"{self.size // 2:06}"

    def project(self) -> Path:
        """Return a project with many services, each of an image of its own."""
        project = self.folder / "project"
        if not project.is_dir():
            project.mkdir()
            tags = (f"1.{number:06}" for number in range(0, self.size, SERVICES))
            services = {f"s{tag[2:]}": {"image": self.image(f"many/tags:{tag}")} for tag in tags}
            (project / "compose.yaml").write_text(json.dumps({"services": services}))
        return project


Act = Callable[[Place], object]


@dataclass(frozen=True, slots=True)
class CommandCase:
    """A call of a command. `command`: its name in the table of commands."""

    command: str
    act: Act
    what: str = ""
    runs: int = 1
    name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.command}{', ' if self.what else ''}{self.what}")


def _local(named: str) -> str:
    return f"localhost:5000/{named}"


def _reason(place: Place, *arguments: str) -> Run:
    return place.on_data(*arguments, "--reason", "measured")


def _monitor(place: Place) -> Run:
    key = LedgerKeys(place.data.with_name("data.keys")).key()
    assert key is not None
    state = place.folder / "monitor"
    url = f"http://{place.address}"
    return place.call("ledger", "monitor", url, "--state", state, "--key", str(key.verifier), codes=(0, 1))


def _receipt(place: Place) -> Run:
    target = place.folder / "receipt.tlog-proof"
    return place.call("ledger", "receipt", "write", place.image(f"many/tags:1.{place.middle}"), "-o", target)


def _restored(place: Place) -> Run:
    place.on_data("admin", "backup", place.folder / "backup")
    return place.call("admin", "restore", place.folder / "backup", "--data", place.folder / "restored", codes=(0, 1))


CASES: Final = [
    CommandCase("tags", lambda p: p.call("tags", p.image("many/tags"))),
    CommandCase("tags", lambda p: p.call("tags", p.image("many/sealed")), "of one manifest"),
    CommandCase("history", lambda p: p.call("history", p.image("many/moves:latest")), "of a tag with many moves"),
    CommandCase("history", lambda p: p.call("history", p.image(f"many/tags:1.{p.middle}")), "beside many tags", 3),
    CommandCase("digest", lambda p: p.call("digest", p.image(f"many/sealed:1.{p.middle}")), runs=3),
    CommandCase("check", lambda p: p.call("check", p.image(f"many/tags:1.{p.middle}"), codes=(0, 1)), runs=3),
    CommandCase("inspect", lambda p: p.call("inspect", p.image("many/referrers:1.0")), "of many referrers"),
    CommandCase(
        "compare",
        lambda p: p.call("compare", p.image("many/tags:1.000001"), p.image("many/tags:1.000002"), codes=(0, 1)),
    ),
    CommandCase("lock", lambda p: p.call("lock", "--project", p.project())),
    CommandCase("verify", lambda p: p.call("verify", "--project", p.project(), codes=(0, 1))),
    CommandCase("pin", lambda p: p.call("pin", "--project", p.project(), codes=(0, 1))),
    CommandCase("outdated", lambda p: p.call("outdated", p.image(f"many/tags:1.{p.middle}"), codes=(0, 1, 3))),
    CommandCase("watch", lambda p: p.call("watch", p.image("many/moves:latest"), codes=(0, 1, 3))),
    CommandCase("ledger monitor", _monitor),
    CommandCase("ledger receipt", _receipt),
    CommandCase("ledger key", lambda p: p.on_data("ledger", "key")),
    CommandCase("ledger rotate", lambda p: _reason(p, "ledger", "rotate")),
    CommandCase("admin fsck", lambda p: p.on_data("admin", "fsck", codes=(0, 1))),
    CommandCase("admin backup", _restored),
    CommandCase("admin expire", lambda p: p.on_data("admin", "expire", "--dry-run"), "dry run"),
    CommandCase("admin expire", lambda p: p.on_data("admin", "expire", "--yes")),
    CommandCase("admin gc", lambda p: p.on_data("admin", "gc", "--dry-run"), "dry run"),
    CommandCase("admin gc", lambda p: p.on_data("admin", "gc", "--yes")),
    CommandCase("admin rules", lambda p: p.call("admin", "rules", "test", "many/tags", "1.0")),
    CommandCase("tag seal", lambda p: _reason(p, "tag", "seal", _local("many/mutable:edge-000001"))),
    CommandCase("tag unseal", lambda p: _reason(p, "tag", "unseal", _local("many/sealed:1.000001"))),
    CommandCase(
        "tag restore",
        lambda p: p.on_data(
            "tag", "restore", _local("many/moves:latest"), "--to", _first_of_moves(), "--reason", "measured"
        ),
    ),
    CommandCase(
        "tag purge",
        lambda p: p.on_data("tag", "purge", _local(f"many/sealed@{REFERRED_DIGEST}"), "--reason", "x", "--dry-run"),
        "dry run",
    ),
    CommandCase(
        "tag purge",
        lambda p: p.on_data("tag", "purge", _local(f"many/sealed@{REFERRED_DIGEST}"), "--reason", "x", "--yes"),
    ),
    CommandCase(
        "tag purge",
        lambda p: p.on_data("tag", "purge", _local("many/platforms:1.0"), "--reason", "x", "--yes"),
        "of many platforms",
    ),
]


def _first_of_moves() -> str:
    return digest_of(manifest("000000"))


NOT_MEASURED: Final[Mapping[str, str]] = {
    "serve": "its requests are the cases of `route_cases`",
    "admission": "a review has at most 500 images, what is remembered has a limit; `python -m bench.admission` measures it",
    "health": "one request, of /readyz",
    "admin migrate": "another storage; it reads each row and each blob once",
    "admin restore": "measured with admin backup",
    "admin user": "reads users, of which there are few",
    "admin token": "replaces a key",
    "admin session": "reads sessions of pipelines, which end within hours",
    "admin host": "reads reports of hosts, whose routes are in `admin_cases`",
    "admin config": "reads settings",
    "admin audit": "reads lists of the admin API, whose routes are in `admin_cases`",
    "admin ledger": "one request, of `admin_cases`",
    "admin held": "reads lists of the admin API, whose routes are in `admin_cases`",
    "admin rebuilds": "reads lists of the admin API, whose routes are in `admin_cases`",
    "copy": "one image; `tests/transfer` and `bench` measure it",
    "tag accept": "one row of a mirrored tag",
    "tag new": "one request for each tag it tries, at most a few",
    "update": "measured as lock and outdated, which it calls",
    "build": "calls a builder",
    "publish": "one image; its evidence is read within limits",
    "rebase": "reads the layers of three images",
    "ps": "reads an engine",
    "pull": "one image",
    "keep ls": "reads an engine",
    "keep restore": "one image of an engine",
    "scrub": "reads an engine's store; `tests/soak/test_scrub_memory.py` measures it",
    "deploy": "as many images as a project has; measured as lock and verify",
    "rollback": "one release",
    "release ls": "reads releases of one host",
    "release show": "one release",
    "release diff": "two releases",
    "release hold": "releases of one project",
    "release unlock": "one container",
    "ratelimit": "one request",
    "ledger trust": "writes a key",
    "ledger recover": "one transaction while the registry is frozen; `tests/server/registry/test_recovery.py`",
    "help": "no data",
    "explain": "no data",
    "version": "no data",
    "completion": "no data",
}
"""Commands whose work does not depend on what a registry has, or is measured elsewhere."""
