"""Notices of use cases on stderr."""

from __future__ import annotations

import pytest

from boltseal.cli.context import client_context


def test_a_notice_can_not_control_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A notice with text of another program, such as a deploy lock's labels on an engine, is one line of printable text."""
    client_context().notice("removed the lock of x\x1b]0;title\x07\nboltseal: all is well\x9b")

    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert printed.rstrip("\n").isprintable()
