"""Which addresses count as one client."""

from __future__ import annotations

import pytest

from boltseal.policy.client_address import forwarded_client, parse_network, whose


@pytest.mark.parametrize(
    ("address", "sender"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("2001:DB8:0:1:ffff:ffff:ffff:ffff", "2001:db8:0:1::/64"),
        ("2001:db8:0:2::1", "2001:db8:0:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("", ""),
        ("unix:/run/boltseal.sock", "unix:/run/boltseal.sock"),
    ],
)
def test_a_network_of_ipv6_is_one_client(address: str, sender: str) -> None:
    """A /64 network of IPv6 counts as one client; an IPv4 address counts by itself, however it is written."""
    assert whose(address) == sender


TRUSTED = [parse_network(text) for text in ("127.0.0.1", "10.0.0.0/8", "2001:db8::/32")]


@pytest.mark.parametrize(
    ("address", "header", "client"),
    [
        ("127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", " 192.0.2.1 ", "192.0.2.1"),
        ("127.0.0.1", "203.0.113.9, 192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "203.0.113.9, 192.0.2.1, 10.1.2.3", "192.0.2.1"),
        ("::ffff:127.0.0.1", "192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "::ffff:192.0.2.1", "192.0.2.1"),
        ("127.0.0.1", "2001:db9::1, 2001:db8::5", "2001:db9::1"),
        ("127.0.0.1", "10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "10.0.0.2, 10.0.0.1", "10.0.0.2"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1, unknown", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1, _hidden, 10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "192.0.2.1,", "127.0.0.1"),
        ("127.0.0.1", "192.0.2.1:1234", "127.0.0.1"),
        ("198.51.100.7", "192.0.2.1", "198.51.100.7"),
        ("198.51.100.7", "10.0.0.1", "198.51.100.7"),
        ("", "192.0.2.1", ""),
        ("unix:/run/x", "192.0.2.1", "unix:/run/x"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_trusted_proxy(address: str, header: str, client: str) -> None:
    """`X-Forwarded-For` counts from a trusted proxy only, and from its end to the first address that is not trusted."""
    assert forwarded_client(address, header, TRUSTED) == client


def test_without_trusted_proxies_the_header_means_nothing() -> None:
    """The address of the connection is the client's."""
    assert forwarded_client("127.0.0.1", "192.0.2.1", []) == "127.0.0.1"


@pytest.mark.parametrize("text", ["", "*", "proxy.example.com", "10.0.0.1/8", "10.0.0.0/33"])
def test_an_invalid_network_is_refused(text: str) -> None:
    """A trusted proxy is an address or a network, never a name."""
    with pytest.raises(ValueError, match=r"IPv4|host bits"):
        parse_network(text)
