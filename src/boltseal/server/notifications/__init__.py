"""Ledger entries as events, and the outbox in the database."""
