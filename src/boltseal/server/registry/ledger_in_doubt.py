"""The errors of a log that takes no entries, because its data may not be what was signed."""

from __future__ import annotations

from boltseal.errors import Unavailable


class LedgerInDoubt(Unavailable):
    """The database does not, or may not, match what was signed, so it takes no entries."""


class LedgerKeyMissing(LedgerInDoubt):
    """The ledger had a key, and it is missing."""
