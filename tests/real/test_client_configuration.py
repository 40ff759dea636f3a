"""What skopeo, podman and docker have configured for a registry is enough: no option names an authority or a login.

The registry has TLS of a private authority, and no anonymous pull. Its address is 0.0.0.0, which reaches this machine
without being a loopback address, for which docker would accept any certificate. System folders are scratch folders,
mounted in a namespace of the started program only.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from boltseal.client.credentials import CredentialStore
from boltseal.client.registries_conf import RegistriesConf
from boltseal.config import RegistriesConfPaths
from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from tests import servers
from tests.authority import authority
from tests.cli import program
from tests.ports import free_port
from tests.programs import program as found_program
from tests.real.layout import image_layout
from tests.real.tools import CommandResult, Podman, run

pytestmark = pytest.mark.real

PASSWORD = "correct horse"  # noqa: S105 - of a registry of this file's tests
THIS_MACHINE = "0.0.0.0"  # noqa: S104 - an address for clients, not one to listen on
GRANTS = '[[auth.grant]]\nusers = ["ci"]\nactions = ["pull", "push"]\n'


@dataclass(frozen=True, slots=True)
class Guarded:
    """A registry with one user and one image. `host`: its address; `ca`: its authority's certificate."""

    host: str
    ca: Path
    image: str
    digest: str


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    signed = authority(folder, addresses=[THIS_MACHINE])
    UserFile(folder / "data.keys" / "htpasswd").put("ci", hash_password(PASSWORD))
    tls = {"BOLTSEAL_SERVER__TLS_CERT": str(signed.cert), "BOLTSEAL_SERVER__TLS_KEY": str(signed.key)}
    with servers.boltseal(folder / "data", config=GRANTS, settings=tls) as server:
        host = server.address.replace("127.0.0.1", THIS_MACHINE)
        layout = image_layout(folder / "image", b"guarded")
        trust = folder / "trust"
        trust.mkdir()
        shutil.copy(signed.ca, trust / "ca.crt")
        to = (f"--dest-creds=ci:{PASSWORD}", f"--dest-cert-dir={trust}")
        run("skopeo", "copy", *to, layout.source, f"docker://{host}/shop/app:1.0.0").checked()
        yield Guarded(host, signed.ca, f"{host}/shop/app:1.0.0", layout.digest)


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine with only a test's files. `system`: its /etc/containers, /etc/docker and /run; `home`: the user's."""

    home: Path
    system: Path

    def started(self, *, runtime: bool) -> tuple[str, ...]:
        """Return the command prefix that starts a program. `runtime`: whether XDG_RUNTIME_DIR is set, as in a login
        session."""
        mounts = "; ".join(
            f"mount --bind '{self.system}/{each}' /{each}" for each in ("etc/containers", "etc/docker", "run")
        )
        return (
            *(found_program("unshare"), "--mount", "/bin/sh", "-c", f'set -e; {mounts}; exec "$@"', "sh"),
            *("env", "-u", "XDG_CONFIG_HOME", "-u", "XDG_DATA_HOME", "-u", "XDG_RUNTIME_DIR", f"HOME={self.home}"),
            *((f"XDG_RUNTIME_DIR={self.home}/run",) if runtime else ()),
        )

    def run(self, *argv: str, runtime: bool = True) -> CommandResult:
        """Run a tool on the machine."""
        started = self.started(runtime=runtime)
        return run(*started, found_program(argv[0]), *argv[1:])

    def boltseal(self, *argv: str, runtime: bool = True, anonymous: bool = False) -> program.Run:
        """Run boltseal on the machine without an option for an authority or a login."""
        return program.run(*argv, *(("--anonymous",) if anonymous else ()), before=self.started(runtime=runtime))

    def trust(self, certs_d: str, guarded: Guarded) -> None:
        """Put the registry's authority into a folder: `~/...` or a system folder."""
        folder = self.home / certs_d[2:] if certs_d.startswith("~/") else self.system / certs_d[1:]
        (folder / guarded.host).mkdir(parents=True)
        shutil.copy(guarded.ca, folder / guarded.host / "ca.crt")

    def write(self, path: str, text: str) -> Path:
        """Write a file of the user."""
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path / "home", tmp_path / "system")
    for folder in ("home/run", "system/etc/containers", "system/etc/docker", "system/run"):
        (tmp_path / folder).mkdir(parents=True)
    return made


@pytest.mark.parametrize("runtime", [True, False])
def test_after_skopeo_login_no_flag_is_needed(guarded: Guarded, machine: Machine, runtime: bool) -> None:
    """boltseal uses skopeo's login, in a session and from /run/containers without XDG_RUNTIME_DIR."""
    machine.trust("~/.config/containers/certs.d", guarded)
    before = machine.boltseal("digest", guarded.image, runtime=runtime)
    machine.run("skopeo", "login", "-u", "ci", "-p", PASSWORD, guarded.host, runtime=runtime).checked()
    after = machine.boltseal("digest", guarded.image, runtime=runtime)
    anonymous = machine.boltseal("digest", guarded.image, runtime=runtime, anonymous=True)
    machine.run("skopeo", "logout", guarded.host, runtime=runtime).checked()
    logged_out = machine.boltseal("digest", guarded.image, runtime=runtime)
    written = machine.home / "run/containers" if runtime else machine.system / f"run/containers/{os.getuid()}"

    assert (after.code, after.out.strip()) == (0, guarded.digest), after.err
    assert (before.code, anonymous.code, logged_out.code) == (3, 3, 3)
    assert "docker login" in before.err
    assert (written / "auth.json").exists()


def test_after_podman_login_no_flag_is_needed(guarded: Guarded, machine: Machine, podman: Podman) -> None:
    """boltseal uses podman's login, with the authority in a system folder."""
    machine.trust("/etc/containers/certs.d", guarded)
    words = podman.words("login", "-u", "ci", "-p", PASSWORD, guarded.host)
    machine.run(*words).checked()
    found = machine.boltseal("digest", guarded.image)

    assert (found.code, found.out.strip()) == (0, guarded.digest), found.err


def test_after_docker_login_no_flag_is_needed(guarded: Guarded, machine: Machine, tmp_path: Path) -> None:
    """boltseal uses docker's login, with the authority of docker's daemon."""
    login = ("docker", "-H", f"unix://{tmp_path}/dockerd/d.sock", "login", "-u", "ci", "-p", PASSWORD, guarded.host)
    with servers.dockerd(tmp_path / "dockerd", before=machine.started(runtime=False)):
        untrusted = machine.run(*login)
        machine.trust("/etc/docker/certs.d", guarded)
        machine.run(*login).checked()
    found = machine.boltseal("digest", guarded.image)
    lost = machine.system / "etc/docker/certs.d" / guarded.host / "ca.crt"
    lost.unlink()
    without = machine.boltseal("digest", guarded.image)

    assert not untrusted.ok
    assert "certificate signed by unknown authority" in untrusted.text
    assert (machine.home / ".docker/config.json").exists()
    assert (found.code, found.out.strip()) == (0, guarded.digest), found.err
    assert without.code == 3
    assert "certificate verify failed" in without.err
    assert "use --ca-file FILE or ca_file in [[client.registry]]" in without.err


CERTS_D = ("~/.config/containers/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d")


@pytest.mark.parametrize(
    ("folder", "hidden_by"), [*((each, None) for each in CERTS_D), *itertools.permutations(CERTS_D, 2)]
)
def test_an_authority_is_trusted_where_skopeo_trusts_it(
    guarded: Guarded, machine: Machine, folder: str, hidden_by: str | None
) -> None:
    """As in skopeo, an earlier authority folder for the registry hides a later one."""
    machine.trust(folder, guarded)
    if hidden_by is not None:
        at = machine.home / hidden_by[2:] if hidden_by.startswith("~/") else machine.system / hidden_by[1:]
        (at / guarded.host).mkdir(parents=True)
    machine.write(".config/containers/auth.json", json.dumps({"auths": {guarded.host: _auth("ci", PASSWORD)}}))
    theirs = machine.run("skopeo", "inspect", "--raw", f"docker://{guarded.image}")
    ours = machine.boltseal("digest", guarded.image)

    assert theirs.ok == (ours.code == 0), theirs.text + ours.err
    assert theirs.ok == (hidden_by is None or CERTS_D.index(folder) < CERTS_D.index(hidden_by))


def test_an_authority_of_rootless_docker_is_trusted_too(guarded: Guarded, machine: Machine) -> None:
    """The authority in the user's folder, which rootless Docker's daemon reads, is trusted."""
    machine.trust("~/.config/docker/certs.d", guarded)
    machine.write(".docker/config.json", json.dumps({"auths": {guarded.host: _auth("ci", PASSWORD)}}))
    found = machine.boltseal("digest", guarded.image)

    assert found.code == 0, found.err


@pytest.mark.parametrize("place", ["user", "system"])
def test_plain_http_is_used_where_skopeo_uses_it(machine: Machine, tmp_path: Path, place: str) -> None:
    """Plain HTTP is used only with `insecure = true`, and boltseal names the file that has it."""
    port = free_port()
    host = f"{THIS_MACHINE}:{port}"
    served = {"BOLTSEAL_SERVER__PUBLIC_URL": f"http://{host}"}
    with servers.boltseal(tmp_path / "data", settings=served, port=port):
        layout = image_layout(tmp_path / "image", b"plain")
        run("skopeo", "copy", "--dest-tls-verify=false", layout.source, f"docker://{host}/shop/app:1.0.0").checked()

        def asked() -> tuple[CommandResult, program.Run]:
            theirs = machine.run("skopeo", "inspect", "--raw", f"docker://{host}/shop/app:1.0.0")
            return theirs, machine.boltseal("digest", f"{host}/shop/app:1.0.0")

        theirs_before, ours_before = asked()
        file = {
            "user": machine.home / ".config/containers/registries.conf",
            "system": machine.system / "etc/containers/registries.conf",
        }[place]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        theirs_after, ours_after = asked()

    assert (theirs_before.ok, theirs_after.ok) == (False, True), theirs_after.text
    assert (ours_before.code, ours_after.code) == (3, 0), ours_after.err
    assert ours_after.out.strip() == layout.digest
    assert f"{host} can't be asked with TLS: asking without, since " in ours_after.err
    assert "can't be asked with TLS" not in ours_before.err


def test_the_settings_file_is_enough_too(guarded: Guarded, machine: Machine) -> None:
    """`[[client.registry]]` with an authority and a login suffices; a mistake in it is exit code 2."""
    file = machine.write(".config/boltseal/boltseal.toml", "")
    shutil.copy(guarded.ca, file.with_name("ca.pem"))
    password = machine.write(".config/boltseal/password", f"{PASSWORD}\n")
    table = f'[[client.registry]]\nhost = "{guarded.host}"\nca_file = "ca.pem"\nusername = "ci"\npassword_file = "password"\n'
    password.chmod(0o600)
    file.write_text(table)
    found = machine.boltseal("digest", guarded.image)
    password.chmod(0o644)
    open_password = machine.boltseal("digest", guarded.image)
    file.write_text(table.replace("ca_file", "ca_fil"))
    mistyped = machine.boltseal("digest", guarded.image)
    as_json = machine.boltseal("digest", guarded.image, "--json")

    assert (found.code, found.out.strip()) == (0, guarded.digest), found.err
    assert open_password.code == 3
    assert f"{password} is open to other users (mode 0644)" in open_password.err
    assert mistyped.code == 2
    assert 'client.registry 1: unknown key "ca_fil"; the nearest known one is ca_file' in mistyped.err
    assert PASSWORD not in open_password.err + mistyped.err
    assert as_json.json["errors"][0]["message"] == mistyped.err.strip().removeprefix("boltseal: ")


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (".config/containers/certs.d/HOST/ca.crt", "ca.crt can't be read: it is not a regular file"),
        (".config/containers/auth.json", "auth.json can't be read: it is not a regular file"),
        (".docker/config.json", "config.json can't be read: it is not a regular file"),
        (".config/containers/registries.conf", "registries.conf can't be read: it is not a regular file"),
    ],
)
def test_a_file_that_can_not_be_read_is_named_and_ends_the_check(
    guarded: Guarded, machine: Machine, place: str, message: str
) -> None:
    """An unreadable file is exit code 3 with its name, at once and without a traceback."""
    if "certs.d" not in place:
        machine.trust("~/.config/containers/certs.d", guarded)
    pipe = machine.home / place.replace("HOST", guarded.host)
    pipe.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    found = machine.boltseal("digest", guarded.image)

    assert found.code == 3
    assert message in found.err
    assert len(found.err.splitlines()) == 1


# --- which of several logins is used ---


def _auth(user: str, password: str = "x") -> Mapping[str, str]:  # noqa: S107 - an invented password
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


RUNTIME, CONFIG, DOCKER = "run/containers/auth.json", ".config/containers/auth.json", ".docker/config.json"
HUB_V1 = "https://index.docker.io/v1/"
LOGINS: Sequence[Mapping[str, Sequence[str]]] = (
    {RUNTIME: ["a.test"], CONFIG: ["a.test"], DOCKER: ["a.test"]},
    {CONFIG: ["a.test"], DOCKER: ["a.test"]},
    {DOCKER: ["a.test"]},
    {DOCKER: ["https://a.test"]},
    {DOCKER: ["https://a.test/v1/"]},
    {DOCKER: ["http://a.test/v2/some/path"]},
    {DOCKER: ["https://a.test", "a.test"]},
    {RUNTIME: ["a.test/shop", "a.test/shop/app", "a.test"]},
    {RUNTIME: ["a.test/shop/app"], CONFIG: ["a.test"]},
    {RUNTIME: ["a.test"], CONFIG: ["a.test/shop/app"]},
    {RUNTIME: ["a.test/sh", "a.test/shop/ap"], DOCKER: ["a.test/shop"]},
    {RUNTIME: ["b.test"], CONFIG: ["a.test:5000"], DOCKER: ["https://a.test:5000/v1/"]},
    {DOCKER: [HUB_V1]},
    {DOCKER: ["index.docker.io"]},
    {RUNTIME: ["docker.io"], DOCKER: [HUB_V1]},
    {RUNTIME: ["docker.io/library"], DOCKER: [HUB_V1]},
    {CONFIG: ["docker.io/team/app", "docker.io/team"], DOCKER: ["registry-1.docker.io"]},
)
KEYS = (
    *("a.test", "a.test/shop", "a.test/shop/app", "a.test/shop/apple", "a.test/shop/app/x", "a.test:5000", "b.test"),
    *("docker.io", "docker.io/library/node", "docker.io/team/app", "docker.io/team/other"),
)


@pytest.mark.parametrize("number", range(len(LOGINS)))
async def test_the_login_is_the_one_that_skopeo_would_use(machine: Machine, number: int) -> None:
    """The login for a registry or a path is the one that skopeo uses, from each file and spelling."""
    users = itertools.count(1)
    for place, keys in LOGINS[number].items():
        auths = {key: _auth(f"user{next(users)}") for key in keys}
        machine.write(place, json.dumps({"auths": auths}))
    store = CredentialStore([machine.home / each for each in (RUNTIME, CONFIG, DOCKER)])
    theirs, ours = {}, {}
    for key in KEYS:
        result = machine.run("skopeo", "login", "--get-login", key)
        registry, _, repository = key.partition("/")
        login = await store.find(registry, repository or None)
        theirs[key] = result.text.strip() if result.ok else None
        ours[key] = None if login is None else login.username

    assert ours == theirs
    assert any(ours.values())


async def test_a_credential_helper_of_registries_conf_is_used(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """boltseal uses the credential helper of registries.conf in which `skopeo login` stores."""
    helper = tmp_path / "bin/docker-credential-drawer"
    helper.parent.mkdir()
    helper.write_text(
        '#!/bin/sh\nread -r key\n[ "$1" = get ] && echo "{\\"Username\\": \\"$key\\", \\"Secret\\": \\"s\\"}"\n'
    )
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    conf = machine.write(".config/containers/registries.conf", 'credential-helpers = ["drawer"]\n')
    machine.write(CONFIG, json.dumps({"auths": {"a.test": _auth("file")}}))
    store = CredentialStore([machine.home / CONFIG], (), RegistriesConf(RegistriesConfPaths(None, conf, conf)))
    ours = await store.find("a.test", "shop/app")
    theirs = machine.run("skopeo", "login", "--get-login", "a.test").checked().strip()

    assert ours is not None
    assert ours.username == theirs == "a.test"
