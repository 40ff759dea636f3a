"""Deliver events to receivers, at least once. `events` defines the events."""
