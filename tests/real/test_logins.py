"""Real clients log in over TLS of a private authority: with the right password, a wrong one, and none."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from boltseal.server.auth.logins import hash_password
from boltseal.server.storage.users import UserFile
from tests import servers
from tests.authority import authority
from tests.cli import program
from tests.fakes.issuer import Issuer, running_issuer
from tests.polling import wait_until
from tests.real.layout import Layout, image_layout
from tests.real.tools import CommandResult, Docker, Podman, run
from tests.servers import Server

pytestmark = pytest.mark.real

PASSWORD, WRONG = "correct horse", "battery staple"
GRANTS = """\
[[auth.grant]]
users = ["ci"]
actions = ["pull", "push"]

[[auth.grant]]
users = ["robot"]
actions = ["pull", "push"]

[[auth.grant]]
users = ["prod"]
actions = ["pull"]

[[auth.grant]]
users = ["guest"]
repository = "open/**"
actions = ["pull"]
"""


@dataclass(frozen=True, slots=True)
class Guarded:
    """A registry with users `ci` (pushes), `prod` (pulls) and `guest` (pulls `open/**`). `trust`: a folder with only
    its ca.crt."""

    server: Server
    trust: Path

    @property
    def host(self) -> str:
        return self.server.address


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with running_issuer() as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    signed = authority(folder)
    trust = folder / "trust"
    trust.mkdir()
    shutil.copy(signed.ca, trust / "ca.crt")
    for user in ("ci", "prod", "guest"):
        UserFile(folder / "data.keys" / "htpasswd").put(user, hash_password(PASSWORD))
    tls = {"BOLTSEAL_SERVER__TLS_CERT": str(signed.cert), "BOLTSEAL_SERVER__TLS_KEY": str(signed.key)}
    with servers.boltseal(folder / "data", config=GRANTS + issuer.toml(), settings=tls) as server:
        yield Guarded(server, trust)


@dataclass(frozen=True, slots=True)
class Client:
    """A tool with one file of logins, as a user has it."""

    login: Callable[[str, str], CommandResult]
    logout: Callable[[], CommandResult]
    push: Callable[[str], CommandResult]


@pytest.fixture(params=["docker", "podman", "skopeo", "oras"])
def client(request: pytest.FixtureRequest, guarded: Guarded, tmp_path: Path) -> Client:
    """Each tool. docker verifies no certificate on loopback; the others trust only this registry's authority."""
    made: Callable[[pytest.FixtureRequest, Guarded, Path], Client] = {
        "docker": _docker,
        "podman": _podman,
        "skopeo": _skopeo,
        "oras": _oras,
    }[request.param]
    return made(request, guarded, tmp_path)


def _docker(request: pytest.FixtureRequest, guarded: Guarded, folder: Path) -> Client:
    docker: Docker = request.getfixturevalue("docker")
    image = docker.image(b"logged in")

    def ask(*argv: str) -> CommandResult:
        return docker.run("--config", str(folder), *argv)

    def push(name: str) -> CommandResult:
        ask("tag", image, f"{guarded.host}/{name}").checked()
        return ask("push", f"{guarded.host}/{name}")

    return Client(
        lambda user, password: ask("login", "--username", user, "--password", password, guarded.host),
        lambda: ask("logout", guarded.host),
        push,
    )


def _podman(request: pytest.FixtureRequest, guarded: Guarded, folder: Path) -> Client:
    podman: Podman = request.getfixturevalue("podman")
    image = podman.image(b"logged in")
    kept, trust = f"--authfile={folder}/auth.json", f"--cert-dir={guarded.trust}"
    return Client(
        lambda user, password: podman.run("login", kept, trust, "-u", user, "-p", password, guarded.host),
        lambda: podman.run("logout", kept, guarded.host),
        lambda name: podman.run("push", kept, trust, image, f"{guarded.host}/{name}"),
    )


def _skopeo(_: pytest.FixtureRequest, guarded: Guarded, folder: Path) -> Client:
    layout = image_layout(folder / "image", b"logged in")
    kept, trust = f"--authfile={folder}/auth.json", f"--cert-dir={guarded.trust}"
    to = (f"--dest-authfile={folder}/auth.json", f"--dest-cert-dir={guarded.trust}")
    return Client(
        lambda user, password: run("skopeo", "login", kept, trust, "-u", user, "-p", password, guarded.host),
        lambda: run("skopeo", "logout", kept, guarded.host),
        lambda name: run("skopeo", "copy", *to, layout.source, f"docker://{guarded.host}/{name}"),
    )


def _oras(_: pytest.FixtureRequest, guarded: Guarded, folder: Path) -> Client:
    (folder / "words").write_text("logged in")
    with_ = ("--registry-config", str(folder / "config.json"), "--ca-file", str(guarded.trust / "ca.crt"))
    return Client(
        lambda user, password: run("oras", "login", *with_, "-u", user, "-p", password, guarded.host),
        lambda: run("oras", "logout", *with_[:2], guarded.host),
        # One at a time: Debian's oras panics if two of its uploads are refused with different messages.
        lambda name: run("oras", "push", "--concurrency=1", *with_, f"{guarded.host}/{name}", "words", cwd=folder),
    )


def test_a_login_allows_a_push_until_the_logout(
    client: Client, guarded: Guarded, repository: str, tmp_path: Path
) -> None:
    """A login allows a push; a wrong password does not, and nothing of it works after a logout."""
    wrong = client.login("ci", WRONG)
    before = client.push(f"{repository}:1.0.0")
    right = client.login("ci", PASSWORD)
    pushed = client.push(f"{repository}:1.0.0")
    client.logout().checked()
    after = client.push(f"{repository}:1.0.1")

    assert not wrong.ok
    assert not before.ok
    right.checked()
    pushed.checked()
    assert not after.ok
    assert re.search("(?i)unauthorized|needs a login|no basic auth credentials|authentication required", after.text), (
        after.text
    )


def test_a_token_is_the_password_of_a_program(client: Client, guarded: Guarded, repository: str) -> None:
    """A client that logged in with an API token pushes within the token's scope, until the token is revoked."""
    on_data = ("--data", guarded.server.folder)
    program.call("admin", "user", "add", "robot", "--service", *on_data)
    create = ("admin", "token", "create", "--owner", "robot", "--repositories", "shop/**", *on_data)
    created = program.call(*create, "--action", "pull", "--action", "push")
    text = created.out.strip()
    client.login("robot", program.call(*create).out.strip()).checked()
    by_puller = client.push(f"{repository}:1.0.0")
    other_owner = client.login("ci", text)
    client.login("robot", text).checked()
    pushed = client.push(f"{repository}:1.0.0")
    outside = client.push(f"{repository.replace('shop/', 'elsewhere/')}:1.0.0")
    revoked = program.call("admin", "token", "revoke", text[9:19], *on_data)
    after = client.push(f"{repository}:1.0.1")

    assert (created.code, revoked.code) == (0, 0), created.err + revoked.err
    assert not other_owner.ok
    pushed.checked()
    assert not outside.ok
    assert not by_puller.ok
    assert "does not allow to push" in by_puller.text
    assert not after.ok
    assert text[19:] not in outside.text + after.text + other_owner.text


def test_crane_pushes_and_pulls_with_a_token(guarded: Guarded, repository: str, crane: str, tmp_path: Path) -> None:
    """crane stores an API token as login, pushes and pulls within its scope, and can do neither after it is revoked."""
    on_data = ("--data", guarded.server.folder)
    program.call("admin", "user", "add", "robot", "--service", *on_data)
    create = ("admin", "token", "create", "--owner", "robot", "--repositories", "shop/**", *on_data)
    text = program.call(*create, "--action", "pull", "--action", "push").out.strip()
    (tmp_path / "words").write_text("by crane")
    run("tar", "-cf", "layer.tar", "words", cwd=tmp_path).checked()
    env = {"DOCKER_CONFIG": str(tmp_path), "SSL_CERT_FILE": str(guarded.trust / "ca.crt")}
    name = f"{guarded.host}/{repository}:1.0.0"

    def ask(*argv: str) -> CommandResult:
        return run(crane, *argv, env=env, cwd=tmp_path)

    before = ask("append", "--new_layer", "layer.tar", "--new_tag", name)
    ask("auth", "login", guarded.host, "-u", "robot", "-p", text).checked()
    pushed = ask("append", "--new_layer", "layer.tar", "--new_tag", name)
    digest = ask("digest", name)
    pulled = ask("pull", name, "image.tar")
    outside = ask("copy", name, f"{guarded.host}/elsewhere/app:1.0.0")
    revoked = program.call("admin", "token", "revoke", text[9:19], *on_data)
    after = ask("pull", name, "again.tar")

    assert not before.ok
    pushed.checked()
    pulled.checked()
    assert digest.checked().strip() in pushed.text
    assert (tmp_path / "image.tar").stat().st_size > 0
    assert not outside.ok
    assert revoked.code == 0, revoked.err
    assert not after.ok
    assert text[19:] not in before.text + outside.text + after.text


def test_a_login_that_may_only_pull_is_refused_with_the_reason(client: Client, repository: str) -> None:
    """A push with a login that may only pull is refused, and the client shows the registry's message."""
    client.login("prod", PASSWORD).checked()

    refused = client.push(f"{repository}:1.0.0")

    assert not refused.ok
    assert f"prod may not push in {repository}" in refused.text


def test_a_pipeline_pushes_the_tag_of_its_git_tag(client: Client, repository: str, issuer: Issuer) -> None:
    """Each client logs in with an ID token, pushes the tag of the pipeline, and shows why another tag is refused."""
    client.login("oidc", issuer.token()).checked()
    pushed = client.push(f"acme/{repository}:1.4.2")
    other = client.push(f"acme/{repository}:1.4.3")
    elsewhere = client.push(f"{repository}:1.4.2")

    pushed.checked()
    assert not other.ok
    assert f"may not push tag 1.4.3 of acme/{repository}" in other.text
    assert not elsewhere.ok


def test_an_id_token_of_another_repository_is_no_login(client: Client, repository: str, issuer: Issuer) -> None:
    """A pipeline that no rule matches cannot log in."""
    refused = client.login("oidc", issuer.token(repository_id="666"))

    assert not refused.ok
    assert not client.push(f"acme/{repository}:1.4.2").ok


def test_docker_pushes_after_the_id_token_has_ended(
    docker: Docker, guarded: Guarded, repository: str, issuer: Issuer, tmp_path: Path
) -> None:
    """docker keeps a refresh token of ours instead of the ID token, so that a push outlives it."""
    now_s = int(time.time())
    # With the permitted clock skew it ends in ten seconds.
    id_token = issuer.token(iat=now_s - 60, nbf=now_s - 60, exp=now_s - 20)
    name, config = f"{guarded.host}/acme/{repository}:1.4.2", ("--config", str(tmp_path))
    docker.run(*config, "login", "--username", "oidc", "--password", id_token, guarded.host).checked()
    context = ssl.create_default_context(cafile=guarded.trust / "ca.crt")
    with httpx2.Client(auth=httpx2.BasicAuth("oidc", id_token), verify=context) as http:
        wait_until(lambda: http.get(f"https://{guarded.host}/token").status_code == 401, "the ID token has ended")
    docker.run("tag", docker.image(b"of a pipeline"), name).checked()
    pushed = docker.run(*config, "push", name)
    stored = (tmp_path / "config.json").read_text()

    pushed.checked()
    assert "identitytoken" in stored
    assert id_token not in stored


def test_an_unknown_authority_ends_the_login_before_the_password(guarded: Guarded, tmp_path: Path) -> None:
    """An unknown certificate authority ends the connection before a password is sent."""
    for tool in ("podman", "skopeo", "oras"):
        flags = ("--registry-config",) if tool == "oras" else ("--authfile",)
        result = run(tool, "login", *flags, str(tmp_path / "auth.json"), "-u", "ci", "-p", PASSWORD, guarded.host)

        assert not result.ok
        assert "certificate" in result.text


@pytest.fixture
def app(tmp_path: Path) -> Layout:
    return image_layout(tmp_path / "app", b"app")


def test_a_login_of_podman_is_used_by_boltseal(
    guarded: Guarded, podman: Podman, repository: str, app: Layout, tmp_path: Path
) -> None:
    """boltseal uses the login that podman stores for a registry or, by `podman login HOST/shop`, for a part of it."""
    kept = tmp_path / "auth.json"
    trusted = (f"--authfile={kept}", f"--cert-dir={guarded.trust}")
    podman.run("login", *trusted, "-u", "prod", "-p", PASSWORD, guarded.host).checked()
    podman.run("login", *trusted, "-u", "ci", "-p", PASSWORD, f"{guarded.host}/shop").checked()
    mine = {"REGISTRY_AUTH_FILE": str(kept)}
    ca = ("--ca-file", str(guarded.trust / "ca.crt"))
    copied = program.run("copy", app.source, f"{guarded.host}/{repository}:1.0.0", *ca, environment=mine)
    elsewhere = program.run("copy", app.source, f"{guarded.host}/other/app:1.0.0", *ca, environment=mine)

    assert set(json.loads(kept.read_text())["auths"]) == {guarded.host, f"{guarded.host}/shop"}
    assert copied.code == 0, copied.err
    assert elsewhere.code != 0
    assert "prod may not push in other/app" in elsewhere.err


def _listed_by_oras(guarded: Guarded, user: str, folder: Path) -> list[str]:
    with_ = ("--registry-config", str(folder / f"{user}.json"), "--ca-file", str(guarded.trust / "ca.crt"))
    run("oras", "login", *with_, "-u", user, "-p", PASSWORD, guarded.host).checked()
    return run("oras", "repo", "ls", *with_, guarded.host).checked().split()


def _listed_by_podman(podman: Podman, guarded: Guarded, user: str, folder: Path) -> list[str]:
    with_ = (f"--authfile={folder}/{user}.json", f"--cert-dir={guarded.trust}")
    podman.run("login", *with_, "-u", user, "-p", PASSWORD, guarded.host).checked()
    found = podman.run("search", *with_, "--limit=100", "--format={{.Name}}", f"{guarded.host}/").checked()
    return [line.removeprefix(f"{guarded.host}/") for line in found.split()]


@pytest.mark.parametrize("tool", ["oras", "podman"])
def test_the_catalog_lists_what_a_login_may_pull(
    guarded: Guarded, podman: Podman, repository: str, app: Layout, tmp_path: Path, tool: str
) -> None:
    """`oras repo ls` and `podman search` follow the catalog's challenge and list what the login may pull."""
    open_ = repository.replace("shop/", "open/")
    for name in (repository, open_):
        to = (f"--dest-creds=ci:{PASSWORD}", f"--dest-cert-dir={guarded.trust}")
        run("skopeo", "copy", *to, app.source, f"docker://{guarded.host}/{name}:1.0.0").checked()

    def listed(user: str) -> list[str]:
        if tool == "oras":
            return _listed_by_oras(guarded, user, tmp_path)
        return _listed_by_podman(podman, guarded, user, tmp_path)

    assert {repository, open_} <= set(listed("ci"))
    assert open_ in listed("guest")
    assert repository not in listed("guest")
