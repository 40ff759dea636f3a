"""What a person gives `scrub` to go by: digests in what they typed, receipts, a lock, documents that stores do not keep.

A `boltseal.lock` in the current folder is taken by itself, and that is said. But only if nobody else could have laid it
there: whoever runs the check as root in somebody's folder must not take that person's word for their own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.cli.answer import counted, say
from boltseal.errors import Invalid, Unavailable, quote

if TYPE_CHECKING:
    from boltseal.host.scrub.trust import Expectation
    from boltseal.oci.digest import Digest

MAX_RECEIPTS: Final = 1000
_HEX: Final = frozenset("0123456789abcdef")
_HEX_DIGITS: Final = 64


class EvidenceUsage(Invalid):
    """What was given can't be meant."""


class EvidenceUnreadable(Unavailable):
    """A receipt, a lock, or documents, that can't be read."""


def typed(images: Sequence[str], expect: str | None) -> dict[str, Expectation]:
    """What each typed name must be, by a digest in it or by --expect. EvidenceUsage, DigestInvalid."""
    from boltseal.host.scrub.trust import Expectation, Level
    from boltseal.oci.digest import Digest

    found: dict[str, Expectation] = {}
    for name in images:
        bare = name.removeprefix("sha256:")
        if "@" in name:
            digest = Digest.parse(name.rpartition("@")[2])
            found[name] = Expectation(digest, Level.L1, "the digest that was typed", of_manifest=True)
        elif len(bare) == _HEX_DIGITS and _HEX.issuperset(bare):
            found[name] = Expectation(Digest("sha256", bare), Level.L1, "the ID that was typed")
    if expect is not None:
        if len(images) != 1:
            raise EvidenceUsage(f"--expect says what one IMAGE must be; got {len(images)} images")
        digest = Digest.parse(expect if ":" in expect else f"sha256:{expect}")
        found[images[0]] = Expectation(digest, Level.L1, "--expect")
    return found


def receipts(files: Sequence[Path], key: str | None) -> tuple[Expectation, ...]:
    """What receipts prove. EvidenceUsage without a key, EvidenceUnreadable; ReceiptInvalid and its like."""
    if not files:
        return ()
    from boltseal.host.scrub.evidence import expectation_of_receipt
    from boltseal.ledger.note import VerifierKey
    from boltseal.ledger.proof import MAX_RECEIPT_BYTES

    if key is None:
        raise EvidenceUsage(
            "a receipt proves nothing without the key of its ledger: give --key, as you got it elsewhere"
        )
    if len(files) > MAX_RECEIPTS:
        raise EvidenceUsage(f"{len(files)} receipts; at most {MAX_RECEIPTS} are read")
    trusted = VerifierKey.parse(key)
    return tuple(expectation_of_receipt(_read(file, "receipt", MAX_RECEIPT_BYTES), trusted) for file in files)


def lock(file: Path | None, *, ignored: bool) -> tuple[Expectation, ...]:
    """What a lock says its tags mean: `file`, or the one that lies in the current folder. EvidenceUnreadable, LockInvalid."""
    if file is not None:
        if ignored:
            raise EvidenceUsage("--lock and --no-lock can't both be meant")
        from boltseal.host.scrub.evidence import expectations_of_lock
        from boltseal.lockfile.parse import MAX_LOCK_BYTES, parse_lock

        return tuple(expectations_of_lock(parse_lock(_read(file, "lock", MAX_LOCK_BYTES))))
    return () if ignored else _lock_here()


def _lock_here() -> tuple[Expectation, ...]:
    from boltseal.lockfile.document import LOCK_NAME, LockInvalid

    if not os.path.lexists(LOCK_NAME):
        return ()
    from boltseal.host.scrub.evidence import expectations_of_lock
    from boltseal.project.lock_file import read_lock

    why = _laid_by_others(LOCK_NAME)
    if why:
        say(f"not by ./{LOCK_NAME}: {why}; --lock {LOCK_NAME} goes by it all the same")
        return ()
    try:
        found = read_lock(Path())
    except LockInvalid as error:
        raise LockInvalid(f"./{LOCK_NAME}: {error.message}; --no-lock goes without it") from error
    if found is None:  # it has gone this moment
        return ()
    said = tuple(expectations_of_lock(found))
    say(f"by ./{LOCK_NAME}: what {counted(len(said), 'tag')} must be here (--no-lock goes without it)")
    return said


def _laid_by_others(name: str) -> str:
    """Why a file in the current folder may be the word of somebody else; "" where it can't."""
    from boltseal.config import invoking_user_id

    mine = {0, os.geteuid(), invoking_user_id()}
    for path, is_folder in ((".", True), (name, False)):
        try:
            found = os.lstat(path)
        except OSError as error:
            return f"it can't be looked at: {error.strerror}"
        if found.st_uid not in mine:
            return f"{'this folder' if is_folder else 'it'} belongs to user {found.st_uid}"
        sticky = is_folder and found.st_mode & stat.S_ISVTX
        if found.st_mode & stat.S_IWOTH and not sticky and not stat.S_ISLNK(found.st_mode):
            return f"everybody may write to {'this folder' if is_folder else 'it'}"
    return ""


def documents(paths: Sequence[Path], receipts: Sequence[Path]) -> dict[Digest, bytes]:
    """Manifests by digest, in layouts and archives, and in those that lie beside receipts. StoreMissing and its like."""
    beside = [each for file in receipts if (each := file.with_name(f"{file.name}.oci")).exists()]
    if not (paths or beside):
        return {}
    from boltseal.host.scrub.archives import documents_in

    return {digest: raw for path in (*paths, *beside) for digest, raw in documents_in(path).items()}


def _read(file: Path, what: str, limit: int) -> bytes:
    """A file, up to a byte more than what is taken."""
    try:
        with file.open("rb") as opened:
            return opened.read(limit + 1)
    except OSError as error:
        raise EvidenceUnreadable(f"{what} {quote(str(file), 200)[1:-1]} can't be read: {error.strerror}") from error
