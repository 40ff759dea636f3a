"""Base64 in documents. Pure."""

from __future__ import annotations

from base64 import b64decode, b64encode


def decode_base64(text: str) -> bytes | None:
    """Decode standard base64 in its canonical form; None for any other text."""
    try:
        data = b64decode(text, validate=True)
    except ValueError:
        return None
    return data if b64encode(data).decode() == text else None
