"""Logins in URLs that a user types by mistake, and messages that may stand in a log."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import program

URL = "https://ci:sesame@127.0.0.1:1/shop/app"


@pytest.mark.parametrize(
    "arguments",
    [
        ["digest", URL],
        ["tags", URL],
        ["inspect", URL],
        ["copy", URL, "oci:x:1"],
        ["copy", f"docker://{URL.partition('//')[2]}", "oci:x:1"],
        ["explain", URL],
        ["pull", URL],
        ["keep", "ls", URL],
        ["scrub", URL],
        ["check", URL, "--digest", URL],
        ["ps", "--host", URL],
        ["ps", "--host", "tcp://ci:sesame@127.0.0.1:1"],
        ["pull", "a/b:1", "--host", "ssh://ci:sesame@127.0.0.1:1", "--anonymous"],
        ["watch", URL],
        ["watch", "--every", URL],
        ["lock", "--project", URL],
        ["lock", "--allow", URL],
        ["outdated", "--registry", URL],
        ["ratelimit", URL],
        ["ledger", "monitor", "https://ci:sesame@127.0.0.1:1"],
        ["ledger", "trust", URL, "key"],
        ["health", "--url", URL],
        ["serve", "--listen", URL],
        ["serve", "--config", URL],
        ["tag", "seal", URL, "--reason", "x", "--data", "none"],
        ["tag", "restore", "127.0.0.1:1/a:b", "--to", URL, "--reason", "x", "--data", "none"],
        ["tags", "127.0.0.1:1/a", "--at", URL],
        ["digest", "a/b:1", "--registry-config", URL],
        ["digest", "a/b:1", "c/d:1", URL],
        [f"--{URL}"],
        [URL],
    ],
    ids=lambda arguments: " ".join(arguments[:2])[:30],
)
def test_no_command_repeats_a_password_in_a_url(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The URL is refused or can't be reached, and the message shows it without user name and password, also with --json."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runs = [program.call(*arguments), program.call(*arguments, "--json")]

    assert all(ran.code != 0 for ran in runs)
    assert all("sesame" not in ran.out + ran.err for ran in runs)
