"""Output that the commands on kept images share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from boltseal.cli.output import say
from boltseal.commands.text import clean
from boltseal.host.keeper import ExpiryResult
from boltseal.host.kept_images import KeptImage
from boltseal.lockfile.format import time_text


def kept_fields(kept: KeptImage | None) -> dict[str, Any] | None:
    """Return a kept image for `--json`."""
    if kept is None:
        return None
    return {
        "image": str(kept.image),
        "digest": None if kept.digest is None else str(kept.digest),
        "tag": kept.keep_name.familiar(),
        "kept": seconds_text(kept.kept_us) if kept.kept_us else None,
        "until": None if kept.until_us is None else seconds_text(kept.until_us),
        "keep": kept.keep,
        "copy": None if kept.copy is None else str(kept.copy),
    }


def seconds_text(time_us: int) -> str:
    """Return a time in microseconds as text, in whole seconds."""
    return time_text(time_us - time_us % 1_000_000)


def expired_fields(each: ExpiryResult) -> dict[str, Any]:
    """Return for `--json` whether an image is kept any longer."""
    return {"status": "kept" if each.why else "removed", "reason": each.why, "kept": kept_fields(each.kept)}


def say_expired(images: Iterable[ExpiryResult]) -> None:
    """Print which images are no longer kept, and which still are and why."""
    for each in images:
        name, digest = each.kept.keep_name.familiar(), each.kept.digest or each.kept.image
        say(clean(f"{name} ({digest}) is still kept: {each.why}" if each.why else f"{name} ({digest}) was removed"))
