"""Where a registry may send a mirror, and where not."""

from __future__ import annotations

import pytest

from boltseal.client.ssrf_guard import AddressBlocked, LinkLocalGuard, LoginNotSent, SsrfGuard, is_public

INSIDE = [
    *("127.0.0.1", "0.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1", "169.254.169.254", "224.0.0.1"),
    *("::1", "::", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "2002:7f00:1::", "ff02::1"),
    *("::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b:1::7f00:1", "fec0::1", "2001:0:7f00:1::", "5f00::1"),
]


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_of_some_network_is_not_the_worlds(address: str) -> None:
    """Loopback, private, shared, link-local (a cloud's metadata), and each of them inside an IPv6 address."""
    assert not is_public(address)
    with pytest.raises(AddressBlocked):
        SsrfGuard(("registry.example.com", 443)).check("cdn.example.com", 443, ["1.1.1.1", address])


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_the_world_may_be_asked(address: str) -> None:
    """As every registry with a store of blobs elsewhere wants it."""
    assert is_public(address)
    SsrfGuard(("registry.example.com", 443)).check("cdn.example.com", 443, [address])


def test_the_registry_itself_is_the_operators_word() -> None:
    """Host and port as configured; another port of the same host is another service."""
    reach = SsrfGuard(("127.0.0.1", 5000))
    reach.check("127.0.0.1", 5000, ["127.0.0.1"])
    with pytest.raises(AddressBlocked):
        reach.check("127.0.0.1", 6379, ["127.0.0.1"])


def test_a_host_that_is_allowed_may_be_anywhere() -> None:
    """At any port, in any case."""
    SsrfGuard(("registry.example.com", 443), frozenset({"minio.corp"})).check("MinIO.corp", 9000, ["10.0.0.7"])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "x.localhost"])
def test_an_address_in_a_redirect_needs_no_look_up(host: str) -> None:
    """So that a proxy is not asked for it either."""
    reach = SsrfGuard(("registry.example.com", 443))
    reach.check_literal("cdn.example.com", 443)
    with pytest.raises(AddressBlocked):
        reach.check_literal(host, 443)


@pytest.mark.parametrize(
    ("home", "realm"),
    [
        ("registry-1.docker.io", "auth.docker.io"),
        ("registry.gitlab.com", "gitlab.com"),
        ("ghcr.io", "ghcr.io"),
        ("ghcr.io", "auth.ghcr.io"),
        ("127.0.0.1", "127.0.0.1"),
        ("registry.example.com", "sso.corp"),
    ],
)
def test_a_login_goes_to_the_registrys_own_domain(home: str, realm: str) -> None:
    """And to a host that the operator named."""
    SsrfGuard((home, 443), frozenset({"sso.corp"})).check_login(realm)


@pytest.mark.parametrize(
    ("home", "realm"),
    [
        ("registry-1.docker.io", "docker.io.evil.example"),
        ("registry-1.docker.io", "evil-docker.io"),
        ("ghcr.io", "evil.io"),
        ("127.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "2.0.0.1"),
        ("registry.example.com", ""),
    ],
)
def test_a_login_goes_to_nobody_else(home: str, realm: str) -> None:
    """Whatever realm a challenge names."""
    with pytest.raises(LoginNotSent):
        SsrfGuard((home, 443)).check_login(realm)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254"])
def test_a_verb_is_sent_to_no_neighbour_of_the_wire(address: str) -> None:
    """A metadata service hands out the machine's own rights; no registry, and no store of blobs, has such an address."""
    with pytest.raises(AddressBlocked, match="link-local"):
        LinkLocalGuard().check("registry.corp", 443, ["10.0.0.7", address])


def test_a_verb_may_ask_registries_inside_a_network() -> None:
    """And follow where they keep their blobs, in there too."""
    LinkLocalGuard().check("registry.corp", 5000, ["10.0.0.7", "127.0.0.1", "fd00::7", "::ffff:192.168.1.1"])
