"""Reads the environment: the only module that does, for clients and for the server.

Everything else is given its settings as arguments. The server's settings file is read by `server.configuration`.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from pathlib import Path
from pwd import getpwall
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote


class ConfigInvalid(Invalid):
    """A setting that is unknown or out of range, or a file that can't be read. Nothing was started."""


def environment() -> dict[str, str]:
    """Return a copy of the process's environment."""
    return dict(os.environ)


class ClientPaths(NamedTuple):
    """Where a client finds what is the user's: logins, the best file first, Docker's daemon, and its own settings.

    `docker_certificates`: the folder of certificates for a daemon behind TLS, None where none is wanted.
    """

    logins: tuple[Path, ...]
    docker_host: str
    settings: Path
    docker_certificates: Path | None = None


def client_paths() -> ClientPaths:
    """The files in which docker and podman keep logins, as the two find them, and DOCKER_HOST or its default.

    Podman's REGISTRY_AUTH_FILE is asked first, since whoever sets it means it; then Docker's, then Podman's own.
    """
    home = home_folder()
    named = os.environ.get("REGISTRY_AUTH_FILE")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    xdg = os.environ.get("XDG_CONFIG_HOME")
    logins = [Path(named)] if named else []
    logins.append(Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    logins += [Path(runtime) / "containers/auth.json"] if runtime else []
    configured = Path(xdg) if xdg else home / ".config"
    logins.append(configured / "containers/auth.json")
    docker_host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    verified = os.environ.get("DOCKER_TLS_VERIFY")
    certificates = Path(os.environ.get("DOCKER_CERT_PATH") or home / ".docker") if verified else None
    return ClientPaths(tuple(logins), docker_host, configured / "boltseal/boltseal.toml", certificates)


def state_folder() -> Path:
    """Where a client keeps what it has seen: BOLTSEAL_STATE, else of root /var/lib/boltseal, else the XDG state folder."""
    named = os.environ.get("BOLTSEAL_STATE")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/boltseal")
    xdg = os.environ.get("XDG_STATE_HOME")
    return (Path(xdg) if xdg else home_folder() / ".local/state") / "boltseal"


def home_folder() -> Path:
    """The user's home, under which engines without root keep their images."""
    return Path(os.environ.get("HOME") or Path("~").expanduser())


def home_folders() -> list[Path]:
    """The user's home; for root those of all users."""
    mine = home_folder()
    others = [Path(user.pw_dir) for user in getpwall()] if os.geteuid() == 0 else []
    return list(dict.fromkeys([mine, *others]))


def caller() -> int:
    """The id of the user who called: behind sudo the one who called that, else the one that we are."""
    named = os.environ.get("SUDO_UID", "")
    return int(named) if os.geteuid() == 0 and named.isascii() and named.isdigit() else os.getuid()


def child_environment() -> dict[str, str]:
    """The user's environment, for programs that are theirs (Docker Compose) and are told which engine is meant.

    DOCKER_CONTEXT, which would win over that, is not in it.
    """
    return {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}


def operator() -> str:
    """Who is at work, for the record: `user@host`."""
    try:
        user = pwd.getpwuid(caller()).pw_name
    except KeyError:
        user = str(caller())
    return f"{user}@{socket.gethostname()}"[:200]


class BuildEnvironment(NamedTuple):
    """What a pipeline says of the build that runs in it. `number`: "" outside of any; `epoch_s`: SOURCE_DATE_EPOCH."""

    number: str
    epoch_s: int | None


# Each as its own pages describe it. GitHub's number is that of one workflow, and repeats when a run is started again.
BUILD_NUMBERS: Final = (
    "CI_PIPELINE_IID",  # GitLab
    "BUILDKITE_BUILD_NUMBER",
    "CIRCLE_BUILD_NUM",
    "DRONE_BUILD_NUMBER",
    "CI_PIPELINE_NUMBER",  # Woodpecker
    "TRAVIS_BUILD_NUMBER",
    "BITBUCKET_BUILD_NUMBER",
    "APPVEYOR_BUILD_NUMBER",
    "CODEBUILD_BUILD_NUMBER",
    "BUILD_BUILDID",  # Azure Pipelines
    "BUILD_NUMBER",  # Jenkins, TeamCity
)


def build_environment() -> BuildEnvironment:
    """The number of the pipeline that we run in, and the time that the build is to be told. ConfigInvalid."""
    number = os.environ.get("GITHUB_RUN_NUMBER", "")
    attempt = os.environ.get("GITHUB_RUN_ATTEMPT", "1")
    if number and attempt != "1":
        number = f"{number}-{attempt}"
    number = number or next((found for name in BUILD_NUMBERS if (found := os.environ.get(name))), "")
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise ConfigInvalid(f"environment: SOURCE_DATE_EPOCH is {quote(epoch)}; expected seconds since 1970")
    return BuildEnvironment(number, int(epoch) if epoch else None)


def secret(variable: str) -> str:
    """What a variable holds that a setting names, such as `password_env` of an upstream. ConfigInvalid if it holds nothing."""
    found = os.environ.get(variable, "")
    if not found:
        raise ConfigInvalid(
            f"environment: {quote(variable)} is empty or not there; a setting says that a password is in it"
        )
    return found


def debug_wanted() -> bool:
    """Whether BOLTSEAL_DEBUG asks for tracebacks."""
    return os.environ.get("BOLTSEAL_DEBUG", "") not in ("", "0")
