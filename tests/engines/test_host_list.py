"""Hosts files: a line that ssh or a shell could misinterpret is refused before any host is used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.engines.address import EngineAddress
from boltseal.engines.host_list import MAX_BYTES, MAX_HOSTS, HostsFileInvalid, in_command, parse_hosts, with_scheme
from boltseal.errors import without_logins


def test_a_file_names_each_host_once_in_its_order() -> None:
    """Comments and empty lines are no hosts, and a host that is named twice is one."""
    raw = b"# web\nroot@web2:2222\n\n  ssh://web1\t\nssh://root@web2:2222\ntcp://10.0.0.3:2375\n"

    assert parse_hosts(raw, "hosts") == ("ssh://root@web2:2222", "ssh://web1", "tcp://10.0.0.3:2375")


@pytest.mark.parametrize(
    "line",
    [
        *("-oProxyCommand=touch x@web1", "ssh://-oProxyCommand=x", "me@-web1", "-l@web1", "web1"),
        *("root@web1 root@web2", "root@web1 # the first", "root@web1\r", "root@web1\x0b", "root@web1\0"),
        *("root@web1;reboot", "root@web1\xa0", "$(reboot)@web1", "me:secret@web1", "@web1"),
    ],
)
def test_a_line_that_is_no_host_is_refused_with_its_number(line: str) -> None:
    """One bad line refuses the whole file, and the message has its number."""
    with pytest.raises(HostsFileInvalid, match=r"^hosts:2: "):
        parse_hosts(f"root@web1\n{line}\n".encode(), "hosts")


@pytest.mark.parametrize("raw", [b"", b"# none\n", b" \n\t\n"])
def test_a_file_without_a_host_is_refused(raw: bytes) -> None:
    """A file without a host never means this host, or a check of nothing that succeeds."""
    with pytest.raises(HostsFileInvalid, match="names no host"):
        parse_hosts(raw, "hosts")


def test_a_file_is_bounded() -> None:
    """A file may have so many bytes and hosts, and not one more."""
    hosts = [f"root@web{number}\n".encode() for number in range(MAX_HOSTS + 1)]

    assert len(parse_hosts(b"".join(hosts[:-1]), "hosts")) == MAX_HOSTS
    with pytest.raises(HostsFileInvalid, match="too many hosts"):
        parse_hosts(b"".join(hosts), "hosts")
    with pytest.raises(HostsFileInvalid, match="too large"):
        parse_hosts(b"#" * (MAX_BYTES + 1), "hosts")


@given(st.binary(max_size=60))
def test_what_is_parsed_is_addresses(raw: bytes) -> None:
    """Any bytes are refused, or are addresses that parse again to themselves."""
    try:
        found = parse_hosts(raw, "hosts")
    except HostsFileInvalid:
        return

    assert [str(EngineAddress.parse(each)) for each in found] == list(found)


def test_only_a_login_without_a_scheme_is_of_ssh() -> None:
    """A bare name stays what it is, and is refused as before."""
    assert [with_scheme(each) for each in ("root@web1", "web1", "tcp://a:1")] == [
        "ssh://root@web1",
        "web1",
        "tcp://a:1",
    ]


def test_an_address_in_a_printed_command_keeps_its_user() -> None:
    """A message hides the login of a URL: a printed command has the address in the form without a scheme, which is taken as well."""
    address = "ssh://root@web1:2222/run/podman/podman.sock"

    assert in_command(address) == "root@web1:2222/run/podman/podman.sock"
    assert without_logins(in_command(address)) == in_command(address)
    assert with_scheme(in_command(address)) == address
    assert in_command("ssh://web1") == "ssh://web1"
