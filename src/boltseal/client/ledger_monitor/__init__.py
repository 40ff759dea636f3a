"""Follows a ledger from outside: all of its entries, the tree over them, and what its registry answers beside it."""
