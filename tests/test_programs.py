"""A program that is not there is never skipped over."""

from __future__ import annotations

import pytest

from tests.programs import ProgramMissing, program


def test_a_missing_program_is_a_failure_that_says_how_to_get_it() -> None:
    """A machine that can't show anything must not look as if it had."""
    with pytest.raises(ProgramMissing, match="apt-get install --no-install-recommends its-package"):
        program("no-such-program", {"no-such-program": "its-package"})
