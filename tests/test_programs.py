"""What the tests start must be what the script installs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.programs import BENCH_PACKAGES, PACKAGES, ProgramMissing, program

SCRIPT = Path(__file__).parent.parent / "scripts" / "test-packages"


def test_the_script_installs_every_package_that_a_test_needs() -> None:
    """A fresh machine gets all of them from `make test` itself."""
    words = set(SCRIPT.read_text(encoding="utf-8").split())

    assert set(PACKAGES.values()) | set(BENCH_PACKAGES.values()) <= words | {"coreutils"}


def test_a_missing_program_is_a_failure_that_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a skip: a machine that can't show anything must not look as if it had."""
    monkeypatch.setitem(PACKAGES, "no-such-program", "its-package")

    with pytest.raises(ProgramMissing, match="apt-get install --no-install-recommends its-package"):
        program("no-such-program")
