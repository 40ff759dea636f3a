"""Addresses of engines, and texts that must never become an argument of ssh."""

from __future__ import annotations

from pathlib import Path

import pytest

from boltseal.engines.address import EngineAddress, EngineAddressInvalid


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("unix:///run/podman/podman.sock", EngineAddress("unix", path="/run/podman/podman.sock")),
        ("tcp://10.0.0.1:2375", EngineAddress("tcp", "10.0.0.1", 2375)),
        ("tcp://[::1]:2375", EngineAddress("tcp", "::1", 2375)),
        ("ssh://web1", EngineAddress("ssh", "web1", path="/var/run/docker.sock")),
        (
            "ssh://me@web1.example.com:2222",
            EngineAddress("ssh", "web1.example.com", 2222, "me", "/var/run/docker.sock"),
        ),
        ("ssh://me@web1/run/podman/podman.sock", EngineAddress("ssh", "web1", None, "me", "/run/podman/podman.sock")),
    ],
)
def test_an_address_round_trips(text: str, address: EngineAddress) -> None:
    """A parsed address is formatted as it was written."""
    assert EngineAddress.parse(text) == address
    assert EngineAddress.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web1",
        "unix://relative",
        "unix:///a\0b",
        "unix:///run/a\x1b[2J.sock",
        "unix:///run/a\nb.sock",
        "npipe:////./pipe/docker_engine",
        "tcp://host:0",
        "tcp://host:65536",
        "tcp://host/path",
        "tcp://user@host:2375",
        "ssh://",
        "ssh://me:secret@web1",
        "ssh://-oProxyCommand=touch${IFS}x",
        "ssh://-l@web1",
        "ssh://me@-web1",
        "ssh://web1 -oProxyCommand=x",
        "ssh://web1;reboot",
        "ssh://$(reboot)@web1",
        "ssh://web1/run/a b.sock",
        "ssh://web1/run/a:b.sock",
        "ssh://web1/run/%h.sock",
        "ssh://web1/run/${HOME}.sock",
        "ssh://web1\n",
    ],
)
def test_a_malformed_address_is_refused(text: str) -> None:
    """A malformed address is refused, above all one that ssh or a shell could misinterpret."""
    with pytest.raises(EngineAddressInvalid, match=r"is not an engine address; expected unix:///PATH, tcp://HOST:PORT"):
        EngineAddress.parse(text)


def test_certificates_apply_to_tcp_only() -> None:
    """Certificates are required for tcp:// only, and not for a local socket."""
    folder = Path("/certificates")

    assert EngineAddress.parse("tcp://web1:2376", folder).certificates == folder
    assert EngineAddress.parse("unix:///a.sock", folder).certificates is None
