"""A network of a test's own: hosts are network namespaces around a router, and the way between any two addresses can be cut.

    this machine  PREFIX.1, .2 ---+          +--- PREFIX.11   a host
                                  +- router -+--- PREFIX.12   another
                                             +--- ...

A cut drops packets in the router, in both directions, so that connections hang as in a partitioned network: nothing is refused.
This machine is one of the hosts, so that tests and commands need no namespace. Only root may make namespaces, which the test reports.
Names contain the process ID of the tests: what killed tests left is deleted by the next ones.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

NETWORKS: Final = range(1, 255)
"""Networks are 198.18.N.0/24, which RFC 2544 sets aside for tests of networks."""
_NAMES: Final = Path("/run/netns")
_OURS: Final = re.compile(r"boltseal-(\d+)-.*")


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace with one address. `port`: the name of the router's interface to it."""

    address: str
    namespace: str
    port: str

    @property
    def before(self) -> tuple[str, ...]:
        """The command prefix that runs a program there."""
        return ("nsenter", f"--net={_NAMES / self.namespace}")


@dataclass(slots=True)
class Network:
    """The router and its hosts. `prefix`: the first three numbers of all addresses."""

    prefix: str
    router: str
    _made: list[str] = field(default_factory=list)
    _cut: set[tuple[str, str]] = field(default_factory=set)

    @property
    def clients(self) -> str:
        """The address of this machine."""
        return f"{self.prefix}.1"

    @property
    def guests(self) -> str:
        """Another address of this machine, for clients whose failed logins must not count for those at the first."""
        return f"{self.prefix}.2"

    @property
    def gateway(self) -> str:
        """The address of the router."""
        return f"{self.prefix}.254"

    def host(self, number: int) -> Host:
        """Add a host whose address ends with a number."""
        host = Host(f"{self.prefix}.{number}", f"{self.router}-{number}", f"v{number}")
        self._add_namespace(host.namespace)
        _ip(
            "link",
            "add",
            host.port,
            "netns",
            self.router,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            host.namespace,
        )
        _ip("-n", host.namespace, "addr", "add", f"{host.address}/32", "dev", "eth0")
        _ip("-n", host.namespace, "link", "set", "eth0", "up")
        self._connect(host.port)
        _ip("-n", host.namespace, "route", "add", "default", "via", self.gateway, "dev", "eth0", "onlink")
        self.move(host.address, host)
        return host

    def alias(self, host: Host, address: str) -> None:
        """Let a host accept packets for another address, which `move` sends to it."""
        _ip("-n", host.namespace, "addr", "add", f"{address}/32", "dev", "lo")

    def move(self, address: str, host: Host) -> None:
        """Send all packets for an address to a host from now on."""
        _ip("-n", self.router, "route", "replace", f"{address}/32", "dev", host.port)

    def cut(self, first: str, second: str) -> None:
        """Drop all packets between two addresses from now on."""
        for source, target in ((first, second), (second, first)):
            self._cut.add((source, target))
            _ip("-n", self.router, "rule", "add", "from", source, "to", target, "blackhole")

    def heal(self, first: str, second: str) -> None:
        """Pass packets between two addresses again."""
        for source, target in ((first, second), (second, first)):
            if (source, target) in self._cut:
                self._cut.remove((source, target))
                _ip("-n", self.router, "rule", "del", "from", source, "to", target, "blackhole")

    def unplug(self, host: Host) -> None:
        """Drop all packets from a host, and to its own address."""
        _ip("-n", self.router, "rule", "add", "iif", host.port, "blackhole")
        _ip("-n", self.router, "rule", "add", "to", host.address, "blackhole")

    def plug(self, host: Host) -> None:
        """Pass the packets of a host again that was cut off."""
        _ip("-n", self.router, "rule", "del", "iif", host.port, "blackhole")
        _ip("-n", self.router, "rule", "del", "to", host.address, "blackhole")

    def open(self, link: str, uplink: str) -> None:
        """Make the router and the way from this machine to it. `link`, `uplink`: the two ends of a pair of interfaces."""
        self._add_namespace(self.router)
        _ip("link", "set", link, "up")
        for address in (self.clients, self.guests):
            _ip("addr", "add", f"{address}/32", "dev", link)
        _ip("link", "set", uplink, "netns", self.router, "name", "uplink")
        self._connect("uplink")
        for address in (self.clients, self.guests):
            _ip("-n", self.router, "route", "add", f"{address}/32", "dev", "uplink")
        forward = ["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]
        subprocess.run(["nsenter", f"--net={_NAMES / self.router}", *forward], check=True)
        _ip("route", "add", f"{self.prefix}.0/24", "via", self.gateway, "dev", link, "onlink", "src", self.clients)

    def close(self) -> None:
        """Delete all namespaces, and with them all interfaces."""
        for name in reversed(self._made):
            _ip("netns", "del", name)

    def _add_namespace(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _connect(self, port: str) -> None:
        _ip("-n", self.router, "addr", "add", f"{self.gateway}/32", "dev", port)
        _ip("-n", self.router, "link", "set", port, "up")


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make a network without hosts."""
    if os.geteuid() != 0:
        pytest.fail("a test with a network of its own makes network namespaces, which only root may do: run it as root")
    _delete_abandoned()
    number = _claim()
    made = Network(f"198.18.{number}", f"boltseal-{os.getpid()}-{number}")
    try:
        made.open(f"boltseal{number}", f"uplink{number}")
        yield made
    finally:
        made.close()
        _ip("link", "del", f"boltseal{number}", may_fail=True)  # gone with the router, if that was made


def _claim() -> int:
    """Return the number of a network, having made this machine's interface to it: its name is taken once."""
    for number in NETWORKS:
        if _ip("link", "add", f"boltseal{number}", "type", "veth", "peer", "name", f"uplink{number}", may_fail=True):
            return number
    raise AssertionError("no network can be made: all of 198.18.0.0/16 is in use")


def _delete_abandoned() -> None:
    for path in _NAMES.iterdir() if _NAMES.is_dir() else ():
        found = _OURS.fullmatch(path.name)
        if found is not None and not Path(f"/proc/{found[1]}").exists():
            _ip("netns", "del", path.name, may_fail=True)


def _ip(*words: str, may_fail: bool = False) -> bool:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    assert may_fail or done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
    return done.returncode == 0
