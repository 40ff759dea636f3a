"""The addresses to which a registry may send a client."""

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
def test_internal_addresses_are_not_public(address: str) -> None:
    """Loopback, private, shared and link-local addresses are not public, also inside an IPv6 address."""
    assert not is_public(address)
    with pytest.raises(AddressBlocked):
        SsrfGuard(("registry.example.com", 443)).check("cdn.example.com", 443, ["1.1.1.1", address])


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"])
def test_public_addresses_are_allowed(address: str) -> None:
    """Public addresses are allowed, since registries store blobs on other hosts."""
    assert is_public(address)
    SsrfGuard(("registry.example.com", 443)).check("cdn.example.com", 443, [address])


def test_the_configured_registry_is_exempt() -> None:
    """The configured registry is exempt for its own host and port only."""
    reach = SsrfGuard(("127.0.0.1", 5000))
    reach.check("127.0.0.1", 5000, ["127.0.0.1"])
    with pytest.raises(AddressBlocked):
        reach.check("127.0.0.1", 6379, ["127.0.0.1"])


def test_an_allowed_host_may_have_any_address() -> None:
    """A host that the operator allowed may have any address and port."""
    SsrfGuard(("registry.example.com", 443), frozenset({"minio.corp"})).check("MinIO.corp", 9000, ["10.0.0.7"])


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "x.localhost"])
def test_an_ip_address_in_a_redirect_is_checked(host: str) -> None:
    """A redirect to an internal IP address is refused, and no proxy gets the request."""
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
    """A login may be sent to the registry's own domain and to an allowed host."""
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
def test_a_login_goes_to_no_other_host(home: str, realm: str) -> None:
    """A login is sent to no other host, whatever realm a challenge names."""
    with pytest.raises(LoginNotSent):
        SsrfGuard((home, 443)).check_login(realm)


@pytest.mark.parametrize("address", ["169.254.169.254", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254"])
def test_a_command_is_not_sent_to_a_link_local_address(address: str) -> None:
    """A client command sends nothing to a link-local address, which metadata services have and registries do not."""
    with pytest.raises(AddressBlocked, match="link-local"):
        LinkLocalGuard().check("registry.corp", 443, ["10.0.0.7", address])


def test_a_command_may_use_registries_in_internal_networks() -> None:
    """A client command may contact registries in internal networks, and their blob storage there."""
    LinkLocalGuard().check("registry.corp", 5000, ["10.0.0.7", "127.0.0.1", "fd00::7", "::ffff:192.168.1.1"])
