"""Where logins, certificates and registry settings are searched: as skopeo, podman and docker do it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from boltseal.config import RegistriesConfPaths, client_paths

VARIABLES = (
    *("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_HOST"),
    "CONTAINERS_REGISTRIES_CONF",
)


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder without any other variable."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


def test_without_variables_the_default_files_are_read_in_the_order_of_skopeo() -> None:
    """Without XDG_RUNTIME_DIR, as in cron, the runtime folders of skopeo and of a rootless podman are searched."""
    paths = client_paths(Path("/disk"))
    user = os.getuid()

    assert [str(path) for path in paths.logins] == [
        f"/disk/run/containers/{user}/auth.json",
        f"/disk/run/user/{user}/containers/auth.json",
        "/home/me/.config/containers/auth.json",
        "/home/me/.docker/config.json",
    ]
    assert paths.docker_host == "unix:///var/run/docker.sock"


def test_each_variable_moves_the_file_that_it_moves_for_its_tool(monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CONFIG_HOME does not move the certs.d and registries.conf of containers, but that of a rootless docker."""
    monkeypatch.setenv("DOCKER_CONFIG", "/b")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    paths = client_paths(Path("/disk"))

    assert [str(path) for path in paths.logins] == [
        "/run/user/1/containers/auth.json",
        "/c/containers/auth.json",
        "/b/config.json",
    ]
    assert paths.docker_host == "tcp://127.0.0.1:2375"
    assert str(paths.settings) == "/c/boltseal/boltseal.toml"
    assert [str(path) for path in paths.certificates] == [
        "/home/me/.config/containers/certs.d",
        "/disk/etc/containers/certs.d",
        "/disk/etc/docker/certs.d",
        "/c/docker/certs.d",
    ]


def test_registry_auth_file_replaces_the_default_files_of_podman_but_not_that_of_docker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With REGISTRY_AUTH_FILE podman and skopeo read no other file; docker ignores the variable."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/a/auth.json")

    assert [str(path) for path in client_paths().logins] == ["/a/auth.json", "/home/me/.docker/config.json"]


def test_registries_conf_is_the_one_of_podman_and_skopeo(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONTAINERS_REGISTRIES_CONF names the registries.conf, as for podman and skopeo."""
    before = client_paths(Path("/disk")).registries_conf
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", "/a/registries.conf")
    after = client_paths(Path("/disk")).registries_conf

    user = Path("/home/me/.config/containers/registries.conf")
    system = Path("/disk/etc/containers/registries.conf")
    assert before == RegistriesConfPaths(None, user, system)
    assert after == RegistriesConfPaths(Path("/a/registries.conf"), user, system)
