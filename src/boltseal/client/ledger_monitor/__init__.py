"""Audits a whole ledger from outside: all entries, the tree over them, and what its registry answers for its tags."""
