"""A named file that does not exist is exit code 2 with one wording in every command."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli import program

IMAGE = "127.0.0.1:1/shop/app:1.4.2"
GONE = "gone/file"
NAMED = (
    ("build", GONE),
    ("build", ".", "--dockerfile", GONE, "-r", "127.0.0.1:1/shop/app"),
    ("compare", f"oci:{GONE}", f"oci:{GONE}"),
    ("copy", f"docker-archive:{GONE}", IMAGE),
    ("copy", f"oci:{GONE}:latest", IMAGE),
    ("deploy", "-f", GONE),
    ("digest", IMAGE, "--ca-file", GONE),
    ("digest", IMAGE, "--registry-config", GONE),
    ("inspect", f"docker-archive:{GONE}"),
    ("inspect", f"oci:{GONE}"),
    ("ledger", "receipt", "verify", GONE, "--key", "localhost:5000+0e5e4e2f+AX"),
    ("lock", GONE),
    ("lock", "--project", GONE),
    ("outdated", "--compose", GONE),
    ("outdated", "--lock", GONE),
    ("outdated", IMAGE, "--dockerfile", GONE),
    ("pin", GONE),
    ("ps", "--compose", GONE),
    ("pull", "--compose", GONE),
    ("scrub", "--documents", GONE),
    ("scrub", "--lock", GONE),
    ("scrub", "--receipt", GONE),
    ("scrub", "--root", GONE),
    ("tag", "new", GONE),
    ("verify", GONE),
    ("verify", "--running", "--compose", GONE),
    ("watch", "--compose", GONE),
    ("watch", "--lock", GONE),
    ("admin", "config", "--config", GONE),
    ("admin", "restore", GONE),
    ("serve", "--tls-cert", GONE),
)


@pytest.mark.parametrize("words", NAMED, ids=" ".join)
def test_a_missing_file_is_a_usage_error(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the file as it was typed."""
    monkeypatch.chdir(tmp_path)
    result = program.call(*words)

    assert (result.code, result.out) == (2, "")
    assert result.err == f"boltseal: {GONE}: no such file or folder; check the path\n"


def test_json_reports_a_missing_file_too(tmp_path: Path) -> None:
    """JSON reports a missing file as an error of the command."""
    result = program.call("watch", "--lock", tmp_path / "none", "--json")

    assert (result.code, result.json["schema"]) == (2, "boltseal.watch/1")
    assert "no such file or folder" in result.json["errors"][0]["message"]
