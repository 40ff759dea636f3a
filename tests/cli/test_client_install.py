"""boltseal installed without extras: every client command works, and a server command names the extra that it needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

import httpx2
import pytest

import boltseal
from boltseal.cli.command_table import commands
from boltseal.cli.loading import SERVER_MODULES, load_module
from boltseal.files.installation import install_command
from tests.cli.client_install import ClientInstall, install_client
from tests.host.scrub.made_stores import DockerStore
from tests.images import image, push
from tests.servers import Server

SOURCE: Final = Path(boltseal.__file__).parent
MOST_PACKAGES: Final = 30
SERVER_LIBRARIES: Final = {"alembic", "apprise", "granian", "prometheus-client", "sqlalchemy", "starlette"}
SERVER_COMMANDS: Final = (
    ("serve", "--listen", "127.0.0.1:0"),
    (
        "admin",
        "config",
    ),
    ("tag", "seal", "localhost:5000/shop/app:1.4.2", "--reason", "r"),
    ("tag", "unseal", "localhost:5000/shop/app:1.4.2", "--reason", "r"),
    ("tag", "restore", "localhost:5000/shop/app:latest", "--to", "2026-11-23", "--reason", "r"),
    ("tag", "accept", "docker.io/library/node:16.13", "--reason", "r"),
    ("tag", "purge", "localhost:5000/shop/app:1.4.2", "--reason", "r"),
    (
        "admin",
        "expire",
    ),
    (
        "admin",
        "fsck",
    ),
    (
        "admin",
        "gc",
    ),
    ("admin", "backup", "copy"),
    ("admin", "restore", "copy"),
    ("ratelimit",),
    ("admin", "user", "ls"),
    ("admin", "token", "rotate"),
    ("ledger", "key"),
    (
        "admin",
        "rules",
    ),
)


def third_party(folder: Path) -> set[str]:
    """The top-level modules of other distributions that the files below a folder import."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((node.module or "").partition(".")[0])
    return found - set(sys.stdlib_module_names) - {"boltseal", "compression"}


def test_the_modules_of_the_server_extra_are_those_that_only_the_server_imports() -> None:
    """Only the server imports the modules of the server extra and of its storage, so no client command fails without them."""
    client = set().union(*(third_party(folder) for folder in SOURCE.iterdir() if folder.name != "server"))

    assert third_party(SOURCE / "server") - client == SERVER_MODULES | {"psycopg", "obstore"}


def test_every_dependency_is_imported_by_the_part_that_declares_it() -> None:
    """Each dependency is imported in the part that declares it: none is unused, and the core has no server library."""
    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text())["project"]
    imports = {"backports-zstd": "backports", "pyyaml": "yaml"}
    declared = {
        part: {imports.get(name, name.replace("-", "_")) for name in (re.split(r"[\[<>=;]", text)[0] for text in texts)}
        for part, texts in {"core": project["dependencies"], **project["optional-dependencies"]}.items()
    }

    assert declared["core"] | declared["notify"] | declared["server"] <= third_party(SOURCE)
    assert declared["server"] == SERVER_MODULES - {"pydantic", "pydantic_core"}
    assert (declared["notify"], declared["postgresql"], declared["s3"]) == ({"apprise"}, {"psycopg"}, {"obstore"})


def test_another_missing_module_is_a_defect() -> None:
    """Only missing libraries of an extra get a message with a remedy; any other missing module is a defect."""
    with pytest.raises(ModuleNotFoundError):
        load_module("boltseal.nothing", command="fsck", extra="server")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> ClientInstall:
    return install_client(tmp_path_factory.mktemp("client") / "venv")


@pytest.fixture
def user(tmp_path: Path) -> dict[str, str]:
    """The environment of a user without logins and settings."""
    return {"HOME": str(tmp_path / "home"), "XDG_CONFIG_HOME": str(tmp_path / "home"), "DOCKER_CONFIG": "/nowhere"}


@pytest.mark.slow
def test_the_client_is_at_most_thirty_packages(client: ClientInstall) -> None:
    """The client installs at most thirty packages, none for the server or Apprise."""
    assert len(client.distributions) <= MOST_PACKAGES
    assert not SERVER_LIBRARIES & set(client.distributions)


@pytest.mark.slow
def test_every_command_shows_its_help(client: ClientInstall) -> None:
    """The list of commands and the help of every client command need no extra."""
    names = [command.name for command in commands() if command.extra is None]

    assert client.run("--help").code == 0
    assert len(names) > 20
    for name, done in zip(names, client.run_each(*([*name.split(), "--help"] for name in names)), strict=True):
        assert (name, done.code, done.err) == (name, 0, "")
        assert f"boltseal {name} " in done.out


@pytest.mark.slow
async def test_client_commands_work(
    server: Server, client: ClientInstall, user: dict[str, str], tmp_path: Path
) -> None:
    """Without extras, health, digest, lock and verify ask a registry, and scrub reads a store on disk."""
    async with httpx2.AsyncClient(base_url=server.url, trust_env=False) as http:
        assert (await push(http, "shop/app", "1.4.2", image("app"))).status_code == 201
    reference = f"{server.address}/shop/app:1.4.2"
    project = tmp_path / "project"
    project.mkdir()
    project.joinpath("compose.yaml").write_text(f"services:\n  web:\n    image: {reference}\n")
    store = DockerStore.at(tmp_path)
    store.image("shop/app:1.4.2", {"etc/passwd": b"root"})

    health = client.run("health", "--url", server.url, environment=user)
    digest = client.run("digest", reference, environment=user)
    locked = client.run("lock", cwd=project, environment=user)
    verified = client.run("verify", cwd=project, environment=user)
    scrubbed = client.run("scrub", "--root", store.root, cwd=project, environment=user)

    assert (health.code, health.out) == (0, f"healthy: {server.url}/healthz\n")
    assert (digest.code, digest.out.partition(":")[0]) == (0, "sha256"), digest.err
    assert locked.code == 0, locked.err
    assert digest.out.strip() in project.joinpath("boltseal.lock").read_text()
    assert verified.code == 0, verified.err
    assert (scrubbed.code, scrubbed.out.partition(":")[0]) == (0, "holds L0"), scrubbed.err


@pytest.mark.parametrize(
    ("receipt", "command"),
    [
        ("pyvenv.cfg", 'pip install "boltseal[server]"'),
        ("uv-receipt.toml", 'uv tool install "boltseal[server]"'),
        ("pipx_metadata.json", 'pipx install --force "boltseal[server]"'),
    ],
)
def test_a_missing_extra_is_installed_by_the_tool_that_installed_boltseal(
    tmp_path: Path, receipt: str, command: str
) -> None:
    """In an environment of `uv tool` or pipx, the message about a missing extra has the command of that tool."""
    (tmp_path / receipt).touch()

    assert install_command("server", tmp_path) == command


@pytest.mark.slow
@pytest.mark.parametrize("arguments", SERVER_COMMANDS, ids=" ".join)
def test_a_server_command_names_the_extra(
    client: ClientInstall, user: dict[str, str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    """Without the server extra, a server command is one line on stderr with exit code 2."""
    done = client.run(*arguments, cwd=tmp_path, environment=user)

    assert (done.code, done.out) == (2, "")
    command, end = done.err.removeprefix("boltseal: ").split(" needs the server extra: ")

    assert " ".join(arguments).startswith(command)
    assert end == 'pip install "boltseal[server]"\n'


@pytest.mark.slow
def test_a_receiver_of_apprise_names_the_notify_extra(
    client: ClientInstall, user: dict[str, str], tmp_path: Path
) -> None:
    """Without the notify extra, a command with Apprise receivers refuses its settings before it does anything."""
    settings = tmp_path / "home/boltseal/boltseal.toml"
    settings.parent.mkdir(parents=True)
    settings.write_text('[[notify]]\nname = "chat"\nurl_env = "CHAT"\n')
    chat = {"CHAT": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"}
    done = client.run("watch", "127.0.0.1:1/shop/app:latest", cwd=tmp_path, environment=user | chat)

    assert done.code == 2
    assert done.err == 'boltseal: notify chat: its url needs the notify extra: pip install "boltseal[notify]"\n'
