"""Read the environment. This is the only module that does, for the client and the server.

All other modules get their settings as arguments. The server's settings file is read by `server.configuration`.
"""

from __future__ import annotations

import os
import pwd
import re
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from pwd import getpwall
from typing import Final, NamedTuple

from boltseal.errors import Invalid, quote

SERVER_CONFIG_FILE: Final = Path("/etc/boltseal/boltseal.toml")
"""The server's settings file, if neither --config nor BOLTSEAL_CONFIG names another one."""


class ConfigInvalid(Invalid):
    """A setting is unknown or out of range, or a settings file can't be read."""


def environment() -> dict[str, str]:
    """Return a copy of the process's environment."""
    return dict(os.environ)


class RegistriesConfPaths(NamedTuple):
    """Paths of registries.conf, the registry settings of podman, skopeo and buildah. `named`: CONTAINERS_REGISTRIES_CONF.

    Beside each of `user` and `system` is a folder with more of its settings, such as `registries.conf.d`.
    """

    named: Path | None
    user: Path
    system: Path


class ClientPaths(NamedTuple):
    """Paths of the user's files, of Docker's daemon, and of files in which other tools describe registries.

    `logins`: credential files by precedence. `docker_certificates`: folder of certificates for a daemon behind TLS,
    None without TLS. `certificates`: folders with one folder of certificates per registry, by precedence.
    """

    logins: tuple[Path, ...]
    docker_host: str
    settings: Path
    docker_certificates: Path | None = None
    certificates: tuple[Path, ...] = ()
    registries_conf: RegistriesConfPaths | None = None


def client_paths(system: Path = Path("/")) -> ClientPaths:
    """Return where skopeo, podman and docker look for logins, certificates and registries, and DOCKER_HOST or its default.

    The order is that of skopeo and podman, which read docker's files too; what only docker reads comes last. With
    REGISTRY_AUTH_FILE they read none of their other credential files; docker ignores it. `system`: the folder that
    contains `etc` and `run`.
    """
    home = home_folder()
    xdg = os.environ.get("XDG_CONFIG_HOME")
    configured = Path(xdg) if xdg else home / ".config"
    named = os.environ.get("REGISTRY_AUTH_FILE")
    logins = [Path(named)] if named else [*_runtime_logins(system), configured / "containers/auth.json"]
    logins.append(Path(os.environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json")
    docker_host = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    verified = os.environ.get("DOCKER_TLS_VERIFY")
    conf = os.environ.get("CONTAINERS_REGISTRIES_CONF")
    return ClientPaths(
        logins=tuple(logins),
        docker_host=docker_host,
        settings=configured / "boltseal/boltseal.toml",
        docker_certificates=Path(os.environ.get("DOCKER_CERT_PATH") or home / ".docker") if verified else None,
        certificates=(
            home / ".config/containers/certs.d",  # not moved by XDG_CONFIG_HOME
            system / "etc/containers/certs.d",
            system / "etc/docker/certs.d",
            configured / "docker/certs.d",  # of a rootless docker
        ),
        registries_conf=RegistriesConfPaths(
            named=Path(conf) if conf else None,
            user=home / ".config/containers/registries.conf",
            system=system / "etc/containers/registries.conf",
        ),
    )


def _runtime_logins(system: Path) -> list[Path]:
    """Return where `podman login` and `skopeo login` write by default: files that last until the next start.

    Without XDG_RUNTIME_DIR, as in cron, skopeo uses a folder in /run/containers, and a rootless podman the one in
    /run/user that the variable would name.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime:
        return [Path(runtime) / "containers/auth.json"]
    user = str(os.getuid())
    return [system / "run/containers" / user / "auth.json", system / "run/user" / user / "containers/auth.json"]


def state_folder() -> Path:
    """Return the client's state folder: BOLTSEAL_STATE, else /var/lib/boltseal for root, else one in the XDG state
    folder.
    """
    named = os.environ.get("BOLTSEAL_STATE")
    if named:
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/lib/boltseal")
    xdg = os.environ.get("XDG_STATE_HOME")
    return (Path(xdg) if xdg else home_folder() / ".local/state") / "boltseal"


def engines_folder() -> Path:
    """Return the folder of engines' releases: BOLTSEAL_ENGINES, else for root the one of this machine, else in the state folder.

    It does not follow root's BOLTSEAL_STATE: all administrators of this machine's engine share it.
    """
    named = os.environ.get("BOLTSEAL_ENGINES")
    if named:
        return Path(named)
    return Path("/var/lib/boltseal/engines") if os.geteuid() == 0 else state_folder() / "engines"


def home_folder() -> Path:
    """Return the user's home folder, in which rootless engines store their images."""
    return Path(os.environ.get("HOME") or Path("~").expanduser())


def home_folders() -> list[Path]:
    """Return the user's home folder; for root those of all users."""
    mine = home_folder()
    others = [Path(user.pw_dir) for user in getpwall()] if os.geteuid() == 0 else []
    return list(dict.fromkeys([mine, *others]))


def invoking_user_id() -> int:
    """Return the ID of the user who runs the command; under sudo that of the user who called sudo."""
    named = os.environ.get("SUDO_UID", "")
    return int(named) if os.geteuid() == 0 and named.isascii() and named.isdigit() else os.getuid()


def child_environment() -> dict[str, str]:
    """Return the environment for programs of the user (Docker Compose) to which boltseal passes an engine explicitly.

    DOCKER_CONTEXT is removed, since it would override that engine.
    """
    return {name: value for name, value in os.environ.items() if name != "DOCKER_CONTEXT"}


def operator() -> str:
    """Return `user@host` of the user who runs the command, for records."""
    try:
        user = pwd.getpwuid(invoking_user_id()).pw_name
    except KeyError:
        user = str(invoking_user_id())
    return f"{user}@{socket.gethostname()}"[:200]


class BuildEnvironment(NamedTuple):
    """Build data from CI variables. `number`: "" outside of CI, and with the workflow's name where the CI system counts each
    workflow of a repository by itself; `epoch_s`: SOURCE_DATE_EPOCH.
    """

    number: str
    epoch_s: int | None


# Names as documented by each CI system. A re-run on GitHub repeats the number.
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
_WORKFLOW_OF: Final[Mapping[str, tuple[str, ...]]] = {
    "GITHUB_RUN_NUMBER": ("GITHUB_WORKFLOW_REF", "GITHUB_WORKFLOW"),
    "BUILDKITE_BUILD_NUMBER": ("BUILDKITE_PIPELINE_SLUG",),
    "BUILD_NUMBER": ("JOB_NAME", "TEAMCITY_BUILDCONF_NAME"),
}
"""For a number that counts one workflow: the variables with the workflow's name. Two workflows have the same numbers."""


def build_environment() -> BuildEnvironment:
    """Return the CI build number and SOURCE_DATE_EPOCH. Raises: ConfigInvalid: SOURCE_DATE_EPOCH is malformed."""
    variable = next((name for name in ("GITHUB_RUN_NUMBER", *BUILD_NUMBERS) if os.environ.get(name)), "")
    number = os.environ.get(variable, "")
    attempt = os.environ.get("GITHUB_RUN_ATTEMPT", "1")
    if variable == "GITHUB_RUN_NUMBER" and attempt != "1":
        number = f"{number}-{attempt}"
    workflow = _workflow(_WORKFLOW_OF.get(variable, ()))
    number = f"{workflow}-{number}" if workflow else number
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    if epoch and not re.fullmatch(r"[0-9]{1,11}", epoch):
        raise ConfigInvalid(f"environment: SOURCE_DATE_EPOCH is {quote(epoch)}; expected seconds since 1970")
    return BuildEnvironment(number, int(epoch) if epoch else None)


def _workflow(variables: Sequence[str]) -> str:
    """Return the name of the workflow that runs: of GitHub's its file (`ci` of `.github/workflows/ci.yml`), which is unique."""
    name = next((found for variable in variables if (found := os.environ.get(variable))), "")
    if variables and variables[0] == "GITHUB_WORKFLOW_REF" and os.environ.get(variables[0]):
        name = name.partition("@")[0].rpartition("/")[2].removesuffix(".yml")
    return name


def secret_variable(variable: str) -> str:
    """Return a secret from the variable that a setting names, such as `password_env`. Raises: ConfigInvalid: it is
    empty.
    """
    found = os.environ.get(variable, "")
    if not found:
        raise ConfigInvalid(
            f"environment: {quote(variable)} is empty or not set; a setting names it as the source of a secret"
        )
    return found


def completion_requested() -> bool:
    """Return whether a shell asks for the completion of a command line: typer reads _BOLTSEAL_COMPLETE."""
    return "_BOLTSEAL_COMPLETE" in os.environ


def debug_requested() -> bool:
    """Return whether BOLTSEAL_DEBUG asks for tracebacks."""
    return os.environ.get("BOLTSEAL_DEBUG", "") not in ("", "0")
