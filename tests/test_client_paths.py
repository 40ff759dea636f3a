"""Where logins are looked for: as docker and podman look for them."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.config import client_paths


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home, and nothing else that is said."""
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")


def test_without_anything_said_both_homes_are_asked() -> None:
    """Docker's first, then Podman's."""
    paths = client_paths()

    assert paths.logins == (Path("/home/me/.docker/config.json"), Path("/home/me/.config/containers/auth.json"))
    assert paths.docker_host == "unix:///var/run/docker.sock"


def test_what_is_said_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each variable as its tool reads it."""
    monkeypatch.setenv("REGISTRY_AUTH_FILE", "/a/auth.json")
    monkeypatch.setenv("DOCKER_CONFIG", "/b")
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/c")
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:2375")
    paths = client_paths()

    assert [str(path) for path in paths.logins] == [
        "/a/auth.json",
        "/b/config.json",
        "/run/user/1/containers/auth.json",
        "/c/containers/auth.json",
    ]
    assert paths.docker_host == "tcp://127.0.0.1:2375"
