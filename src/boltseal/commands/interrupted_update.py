"""Undo the file edits of a `boltseal update` that was killed before its release was healthy."""

from __future__ import annotations

from pathlib import Path

from boltseal.commands.client_context import ClientContext
from boltseal.commands.engine_releases import known_folders
from boltseal.commands.text import clean
from boltseal.deploy.release_store import ReleaseFolder
from boltseal.deploy.releases import ReleaseKind
from boltseal.project.edit_journal import EditJournal, JournalRecord


def undo_interrupted_update(client: ClientContext, root: Path) -> None:
    """Restore the files and locks of a project, and of projects in it or around it, as they were before such an update.

    Call it before reading a project's files in order to write them. Edits whose release is healthy are kept.
    Raises: EditsRunning: the update is still running; JournalUnusable, FilesNotWritten, FileChanged, ReleasesUnusable.
    """
    for journal in EditJournal.of_project(client.state_folder, root):
        with journal.held():
            record = journal.read()
            if record is None or _deployed(client, record):
                journal.end()
            else:
                restore(client, journal)


def report_interrupted_update(client: ClientContext, root: Path) -> None:
    """Notify the user of an update that was interrupted; change nothing. Raises: JournalUnusable."""
    for journal in EditJournal.of_project(client.state_folder, root):
        client.notice(
            clean(
                f"boltseal: {journal.root}: an update runs, or was interrupted; the next `boltseal update`, `deploy`, "
                "`lock` or `pin --write` undoes its edits"
            )
        )


def restore(client: ClientContext, journal: EditJournal) -> None:
    """Undo the edits of a held journal, and notify the user. Raises: as `EditJournal.restore`."""
    done = journal.restore()
    if done.refused:
        names = ", ".join(done.refused)
        client.notice(
            clean(f"boltseal: {journal.root}: the update's edits are not undone: {names} was changed since; check them")
        )
    elif done.files:
        client.notice(
            clean(f"boltseal: {journal.root}: restored as before the update that failed: {', '.join(done.files)}")
        )


def _deployed(client: ClientContext, record: JournalRecord) -> bool:
    root = client.engines / record.engine
    by_address = "/" in record.engine or not record.engine  # the journal of an earlier version
    folders = list(known_folders(client, record.project)) if by_address else [ReleaseFolder(root, record.project)]
    releases = [each for folder in folders for each in folder.all()]
    return any(one.number > record.release and one.kind is ReleaseKind.UPDATE and one.good for one in releases)
