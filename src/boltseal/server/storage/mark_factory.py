"""Opens the keys of a store with the marks that the settings name: files beside the keys, other files, or objects."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from boltseal.errors import Invalid
from boltseal.server.storage.ledger_key import LEDGER_NAME, LedgerKeys
from boltseal.server.storage.ledger_mark import MARK, FileMark, Mark, MarkUnfit, ObjectMark
from boltseal.server.storage.libraries import check_libraries
from boltseal.server.storage.object_client import Bucket
from boltseal.server.storage_settings import MarkSettings, StorageSettings


class MarkNotShared(Invalid):
    """The mark would be on the disk of one server, and the database is one that several servers can share."""


class AccessKeyInvalid(Invalid):
    """The file with the access key can't be read, or is not one."""


def open_keys(folder: Path, storage: StorageSettings) -> LedgerKeys:
    """Return the keys of the ledger. Raises: AccessKeyInvalid."""
    mark = storage.mark
    if mark.url is None:
        return LedgerKeys(folder)
    if not mark.shared:
        return LedgerKeys(folder, marks=partial(_file_mark, Path(unquote(urlsplit(mark.url).path))))
    return LedgerKeys(folder, marks=partial(_object_mark, mark))


def check_mark(storage: StorageSettings) -> None:
    """Check before a start that the mark can be kept where the settings say.

    Raises:
        MarkNotShared, AccessKeyInvalid, MarkUnfit: they have to be changed.
        Invalid: the library for object stores is not installed.
        MarkUnreachable: the store of the mark does not answer.
    """
    check_libraries(storage)
    if storage.mark_refusal is not None:
        raise MarkNotShared(storage.mark_refusal)
    if storage.mark.shared:
        _object_mark(storage.mark, LEDGER_NAME).check()


def _file_mark(path: Path, log: str) -> Mark:
    return FileMark(path.with_name(_name(path.name, log)))


def _object_mark(mark: MarkSettings, log: str) -> ObjectMark:
    parts = urlsplit(mark.url or "")
    if not parts.netloc:
        raise MarkUnfit("[storage.mark] url names no bucket")
    bucket = Bucket(parts.netloc, "", mark.endpoint, mark.region, _login(mark.access_key_file))
    return ObjectMark(bucket.connect(MARK), _name(parts.path.strip("/"), log))


def _name(name: str, log: str) -> str:
    """Return the name of a log's mark: that of the ledger as it is, others with the log's name behind it."""
    return name if log == LEDGER_NAME else f"{name}.{log}"


def _login(path: Path | None) -> tuple[str, str] | None:
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise AccessKeyInvalid(f"[storage.mark] access_key_file {path} can't be read: {reason}") from None
    if len(lines) != 2:
        raise AccessKeyInvalid(
            f"[storage.mark] access_key_file {path} has {len(lines)} words; expected two lines, the id and the secret"
        )
    return lines[0], lines[1]
