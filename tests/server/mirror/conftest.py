"""A running upstream, and a mirror of it."""

from __future__ import annotations

from tests.server.mirror.mirrors import mirror, upstream

__all__ = ["mirror", "upstream"]
