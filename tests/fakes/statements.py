"""The statements of a transaction in which none may be run."""

from __future__ import annotations

from collections.abc import Sequence

from boltseal.server.storage.coordination.protocol import FoundRow


class NoStatements:
    """Fails for each statement: the `Generation` of one host needs no database."""

    def plain(self, statement: str, values: Sequence[object] = (), /) -> FoundRow:
        """Fail."""
        raise AssertionError(f"{statement} was run with {values}")
