"""A missing external program is never a reason to skip a test."""

from __future__ import annotations

import pytest

from tests.programs import ProgramMissing, program


def test_a_missing_program_is_a_failure_that_says_how_to_get_it() -> None:
    """A missing program fails the test with the command that installs it."""
    with pytest.raises(ProgramMissing, match="apt-get install --no-install-recommends its-package"):
        program("no-such-program", {"no-such-program": "its-package"})
