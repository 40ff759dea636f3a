"""Expected digests of scrubbed images: from the command line, receipts, a lock, and documents that stores lack.

A `boltseal.lock` in the working directory is used by default, and a notice says so. It is used only if no other user could
have written it: root must not trust a lock in a folder that another user controls.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.commands.client_context import ClientContext
from boltseal.commands.text import counted
from boltseal.config import invoking_user_id
from boltseal.errors import Invalid, Unavailable, quote
from boltseal.host.scrub.archives import documents_in
from boltseal.host.scrub.trust import MIN_ID, Expectation, ExpectedPrefix, Level
from boltseal.loading import deferred
from boltseal.lockfile.document import LOCK_NAME, LockInvalid
from boltseal.oci.digest import Digest

if TYPE_CHECKING:
    from boltseal.host.scrub import evidence
    from boltseal.ledger import note, receipt_attestation
    from boltseal.lockfile import parse
    from boltseal.project import lock_file
else:  # most scrubs have neither receipts nor a lock
    evidence = deferred("boltseal.host.scrub.evidence")
    lock_file = deferred("boltseal.project.lock_file")
    note = deferred("boltseal.ledger.note")
    parse = deferred("boltseal.lockfile.parse")
    receipt_attestation = deferred("boltseal.ledger.receipt_attestation")

MAX_RECEIPTS: Final = 1000
_HEX: Final = frozenset("0123456789abcdef")
_HEX_DIGITS: Final = 64


@dataclass(frozen=True, slots=True)
class ExpectationOptions:
    """Where expectations come from.

    Attributes:
        expect: ID or digest of the one image in the arguments.
        lock: a lock file; None: boltseal.lock in the working directory, unless `no_lock`.
        receipts: files of receipts; they need `key`, the ledger's key.
        documents: layouts or archives with manifests that a store does not keep.
    """

    expect: str | None = None
    lock: Path | None = None
    no_lock: bool = False
    receipts: Sequence[Path] = ()
    key: str | None = None
    documents: Sequence[Path] = ()


def digests_in_arguments(images: Sequence[str], expect: str | None) -> dict[str, Expectation | ExpectedPrefix]:
    """Return the expectation of each image with a digest in its name or in --expect. Raises: Invalid, DigestInvalid."""
    found: dict[str, Expectation | ExpectedPrefix] = {}
    for name in images:
        bare = name.removeprefix("sha256:")
        if "@" in name:
            digest = Digest.parse(name.rpartition("@")[2])
            found[name] = Expectation(digest, Level.L1, "the digest in the arguments", of_manifest=True)
        elif len(bare) == _HEX_DIGITS and _HEX.issuperset(bare):
            found[name] = Expectation(Digest("sha256", bare), Level.L1, "the ID in the arguments")
    if expect is not None:
        if len(images) != 1:
            raise Invalid(f"--expect needs exactly one IMAGE; got {len(images)} images")
        digits = expect.removeprefix("sha256:")
        if MIN_ID <= len(digits) < _HEX_DIGITS and _HEX.issuperset(digits):
            found[images[0]] = ExpectedPrefix(digits, "--expect")
        else:
            digest = Digest.parse(expect if ":" in expect else f"sha256:{expect}")
            found[images[0]] = Expectation(digest, Level.L1, "--expect")
    return found


def receipts_of(options: ExpectationOptions) -> tuple[Expectation, ...]:
    """Return the digests that receipts prove. Raises: Invalid: no key, or too many; Unavailable: unreadable; ReceiptInvalid."""
    files = options.receipts
    if not files:
        return ()
    if options.key is None:
        raise Invalid("a receipt proves nothing without the key of its ledger; give --key, from the ledger's operator")
    if len(files) > MAX_RECEIPTS:
        raise Invalid(f"got {len(files)} receipts; at most {MAX_RECEIPTS} are read")
    trusted, limit = note.VerifierKey.parse(options.key), receipt_attestation.MAX_ATTESTATION_BYTES
    return tuple(evidence.expectation_of_receipt(_read(file, "receipt", limit), trusted) for file in files)


def lock_expectations(options: ExpectationOptions, client: ClientContext) -> tuple[Expectation, ...]:
    """Return the digests that a lock has for its tags. Raises: Invalid: both lock options; Unavailable: unreadable; LockInvalid."""
    if options.lock is not None:
        if options.no_lock:
            raise Invalid("--lock and --no-lock exclude each other; give one of them")
        lock = parse.parse_lock(_read(options.lock, "lock", parse.MAX_LOCK_BYTES))
        return tuple(evidence.expectations_of_lock(lock))
    if options.no_lock or not os.path.lexists(LOCK_NAME):
        return ()
    reason = _writable_by_others(LOCK_NAME)
    if reason:
        client.notice(f"./{LOCK_NAME} is not used: {reason}; --lock {LOCK_NAME} uses it anyway")
        return ()
    try:
        found = lock_file.read_lock(Path())
    except LockInvalid as error:
        raise LockInvalid(f"./{LOCK_NAME}: {error.message}; --no-lock ignores it") from error
    if found is None:  # deleted since the check above
        return ()
    expected = tuple(evidence.expectations_of_lock(found))
    client.notice(f"using ./{LOCK_NAME}: it has {counted(len(expected), 'tag')} (--no-lock ignores it)")
    return expected


def _writable_by_others(name: str) -> str:
    """Return why a file in the working directory may be another user's; "" if it can't."""
    mine = {0, os.geteuid(), invoking_user_id()}
    for path, is_folder in ((".", True), (name, False)):
        try:
            found = os.lstat(path)
        except OSError as error:
            return f"it can't be read: {error.strerror}"
        if found.st_uid not in mine:
            return f"{'this folder' if is_folder else 'it'} belongs to user {found.st_uid}"
        sticky = is_folder and found.st_mode & stat.S_ISVTX
        if found.st_mode & stat.S_IWOTH and not sticky and not stat.S_ISLNK(found.st_mode):
            return f"every user may write to {'this folder' if is_folder else 'it'}"
    return ""


def documents_of(options: ExpectationOptions) -> dict[Digest, bytes]:
    """Return manifests by digest, from layouts and archives and from FILE.oci beside receipts. Raises: StoreMissing."""
    beside = [each for file in options.receipts if (each := file.with_name(f"{file.name}.oci")).exists()]
    return {digest: raw for path in (*options.documents, *beside) for digest, raw in documents_in(path).items()}


def _read(file: Path, what: str, limit: int) -> bytes:
    """Read at most one byte more than `limit`, so that the parser refuses a longer file."""
    try:
        with file.open("rb") as opened:
            return opened.read(limit + 1)
    except OSError as error:
        raise Unavailable(f"{what} {quote(str(file), 200)[1:-1]} can't be read: {error.strerror}") from error
