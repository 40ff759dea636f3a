"""Parsing the `[[notify]]` tables."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path

import pytest

from boltseal.config import ConfigInvalid
from boltseal.errors import Invalid
from boltseal.events import EventKind
from boltseal.notify.receivers import build_receivers
from boltseal.policy.notifications import NotifyInvalid, parse_notify
from boltseal.server.configuration import load


def test_a_table_is_read() -> None:
    """Omitted keys have their defaults."""
    (plain,) = parse_notify([{"url": "https://hooks.example.com/boltseal"}])
    (whole,) = parse_notify(
        [
            {
                "name": "ops",
                "url_env": "HOOK",
                "secret_file": "/run/secret",
                "events": ["tag.moved", "tag.refused"],
                "networks": ["10.1.0.0/16"],
                "ca_file": "/etc/ca.pem",
            }
        ]
    )

    assert (plain.name, plain.events, plain.networks) == ("hooks.example.com", frozenset(EventKind), ())
    assert (whole.name, whole.events) == ("ops", frozenset({EventKind.TAG_MOVED, EventKind.TAG_REFUSED}))
    assert whole.networks == (ipaddress.ip_network("10.1.0.0/16"),)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({}, "an address is missing"),
        ({"url": "https://a.example", "url_env": "B"}, "url and url_env are there"),
        ({"url": "https://a.example", "secret_file": "a", "secret_env": "B"}, "secret_file and secret_env"),
        ({"url": "slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"}, "url_file"),
        ({"url": "https://user:hunter2@hooks.example.com/"}, "url_file"),
        ({"url": "https://"}, "no host"),
        ({"url": "https://[::1"}, "not an http"),
        ({"url": 1}, "url is not a text"),
        ({"url_env": "not a name"}, "the name of a variable"),
        ({"url": "https://a.example", "events": ["tag.move"]}, "tag.moved"),
        ({"url": "https://a.example", "events": []}, "empty"),
        ({"url": "https://a.example", "events": "tag.moved"}, "no list"),
        ({"url": "https://a.example", "networks": ["10.0.0.1/8"]}, "networks"),
        ({"url": "https://a.example", "networks": "10.0.0.0/8"}, "networks"),
        ({"url": "https://a.example", "secret": "hunter2"}, "unknown key"),
        ({"url": "https://a.example", "event": ["tag.moved"]}, "did you mean events"),
    ],
)
def test_an_invalid_table_is_refused(table: Mapping[str, object], says: str) -> None:
    """An invalid table is one line that names the table, without URL or secret."""
    with pytest.raises(NotifyInvalid, match=says) as raised:
        parse_notify([table])

    assert raised.value.message.startswith("notify 1: ")
    assert "hunter2" not in raised.value.message
    assert "TIiajk" not in raised.value.message


def test_two_receivers_of_one_name_are_refused() -> None:
    """Two receivers of one name are refused, because they would share one queue."""
    with pytest.raises(NotifyInvalid, match="appears twice"):
        parse_notify([{"url": "https://a.example/1"}, {"url": "https://a.example/2"}])
    with pytest.raises(NotifyInvalid, match="at most 50"):
        parse_notify([{"url": f"https://a{n}.example"} for n in range(51)])


def test_the_server_reports_where_a_table_is_wrong(tmp_path: Path) -> None:
    """The server reports a wrong table with file, got and expected, as for all settings."""
    file = tmp_path / "boltseal.toml"
    file.write_text('[[notify]]\nurl = "https://hooks.example.com/x"\nevents = ["tag.moved"]\n')
    settings = load(file)
    file.write_text('[[notify]]\nurl = "ftp://hooks.example.com/x"\n')

    assert [each.name for each in settings.receivers] == ["hooks.example.com"]
    with pytest.raises(ConfigInvalid, match=r"boltseal\.toml: notify 1: url"):
        load(file)


def test_secrets_come_from_files_and_variables_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are read from files and variables at the start, and never shown."""
    secret, address = tmp_path / "secret", tmp_path / "address"
    secret.write_text("whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n")
    address.write_text("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ\n")
    monkeypatch.setenv("HOOK", "https://hooks.example.com/hunter2")
    built = build_receivers(
        parse_notify([{"url_env": "HOOK", "secret_file": str(secret)}, {"name": "chat", "url_file": str(address)}])
    )

    assert [each.name for each in built] == ["HOOK", "chat"]
    assert "hunter2" not in repr(built)
    assert "TIiajk" not in repr(built)


@pytest.mark.parametrize(
    ("table", "content", "says"),
    [
        ({"url_file": "FILE"}, "", "one line"),
        ({"url_file": "FILE"}, "https://a.example/hunter2\nhttps://b.example/hunter2", "one line"),
        ({"url_file": "FILE"}, "hunter2", "malformed url"),
        ({"url_file": "FILE"}, "http://hooks.example.com/hunter2", "not encrypted"),
        ({"url_file": "MISSING"}, "", "No such file"),
        ({"url": "https://a.example", "secret_file": "FILE"}, "hunter2", "shorter than 16"),
        ({"url_file": "FILE", "ca_file": "x"}, "slack://hunter2", "are for webhooks"),
        ({"url": "https://a.example", "ca_file": "FILE"}, "hunter2", "certificate"),
    ],
)
def test_an_invalid_secret_is_refused_without_showing_it(
    tmp_path: Path, table: Mapping[str, str], content: str, says: str
) -> None:
    """An invalid secret is refused without showing it, and the server does not start."""
    file = tmp_path / "secret"
    file.write_text(content)
    named = {key: value.replace("FILE", str(file)).replace("MISSING", "/nowhere") for key, value in table.items()}
    with pytest.raises(Invalid, match=says) as raised:
        build_receivers(parse_notify([named]))

    assert isinstance(raised.value, Invalid)
    assert "hunter2" not in raised.value.message
