"""Which addresses count as one client."""

from __future__ import annotations

import pytest

from boltseal.policy.client_address import whose


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
