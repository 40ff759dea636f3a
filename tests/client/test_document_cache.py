"""The cache of documents and observations: nothing is fetched twice, and cached bytes are verified."""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

import pytest

from boltseal.client import document_cache
from boltseal.client.document_cache import VERSION, CachedTag, DocumentCache
from boltseal.client.state import ClientState, StateUnusable
from boltseal.oci.digest import Digest
from boltseal.oci.reference import Reference

NODE = Reference.parse("node:16.13")
BODY = b'{"a":1}'
DIGEST, OTHER = Digest.of(BODY), Digest.of(b"other")


def opened(folder: Path, now_us: int = 1_000_000_000_000) -> DocumentCache:
    return DocumentCache(ClientState(folder), now_us=now_us)


def test_a_document_is_cached_at_once_and_across_processes(tmp_path: Path) -> None:
    """A cached document is found by its digest with its media type, also by other processes."""
    with opened(tmp_path) as first:
        assert first.document(DIGEST) is None
        first.keep(DIGEST, "application/json", BODY)
        assert first.document(DIGEST) == ("application/json", BODY)
    with opened(tmp_path) as second:
        assert second.document(DIGEST) == ("application/json", BODY)
        assert second.document(OTHER) is None


@pytest.mark.parametrize("body", [zlib.compress(b"something else"), b"no zlib", b"", zlib.compress(b"x" * 9_000_000)])
def test_bytes_with_another_digest_are_not_returned(tmp_path: Path, body: bytes) -> None:
    """Cached bytes whose digest differs are not returned, so a manipulated file can't forge an image."""
    with opened(tmp_path) as first:
        first.keep(DIGEST, "application/json", BODY)
    with sqlite3.connect(tmp_path / "learned.db") as database:
        database.execute("UPDATE document SET body = ?", (body,))
    database.close()
    with opened(tmp_path) as second:
        assert second.document(DIGEST) is None


def test_observations_of_tags_are_recorded_with_their_times(tmp_path: Path) -> None:
    """An unchanged tag adds no observation; a deleted one does."""
    for now_us, digest in ((10, DIGEST), (20, DIGEST), (30, OTHER), (40, None)):
        with opened(tmp_path, now_us) as one:
            one.saw([(NODE, digest)])
    with opened(tmp_path) as last:
        past = last.past(NODE)

    assert past == (CachedTag(DIGEST, 10, 20), CachedTag(OTHER, 30, 30), CachedTag(None, 40, 40))


def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    """A cache file that is no database is reported; it may be deleted at the cost of requests."""
    tmp_path.joinpath("learned.db").write_bytes(b"x" * 5000)
    with opened(tmp_path) as one, pytest.raises(StateUnusable, match="delete it"):
        one.document(DIGEST)


def test_a_newer_file_is_not_touched(tmp_path: Path) -> None:
    """A cache file of a newer version, whose format may differ, is not changed."""
    with opened(tmp_path) as one:
        one.saw([(NODE, DIGEST)])
    database = sqlite3.connect(tmp_path / "learned.db")
    database.execute(f"PRAGMA user_version = {VERSION + 1}")
    database.close()
    with opened(tmp_path) as one, pytest.raises(StateUnusable, match="newer"):
        one.past(NODE)


def test_a_malformed_digest_is_reported(tmp_path: Path) -> None:
    """A malformed digest in a manipulated cache is reported."""
    with opened(tmp_path) as one:
        one.saw([(NODE, DIGEST)])
    with sqlite3.connect(tmp_path / "learned.db") as database:
        database.execute("UPDATE meant SET digest = 'x'")
    database.close()
    with opened(tmp_path) as one, pytest.raises(StateUnusable):
        one.past(NODE)


def test_the_cache_is_bounded(tmp_path: Path) -> None:
    """A full cache deletes the least recently used documents first."""
    bodies = [bytes([number]) * 100 for number in range(4)]
    for number, body in enumerate(bodies):
        with opened(tmp_path, (number + 1) * 10**12) as one:
            one.keep(Digest.of(body), "t", body)
    with DocumentCache(ClientState(tmp_path), now_us=9 * 10**12, max_document_bytes=0) as one:
        one.keep(DIGEST, "t", BODY)
    with opened(tmp_path) as one:
        assert one.document(Digest.of(bodies[0])) is None


def test_an_oversized_document_is_not_cached(tmp_path: Path) -> None:
    """A document longer than any valid manifest or config is not cached."""
    with opened(tmp_path) as one:
        body = b"x" * (document_cache.MAX_BODY_BYTES + 1)
        one.keep(Digest.of(body), "t", body)
        assert one.document(Digest.of(body)) is None


def test_an_unwritable_folder_is_reported(tmp_path: Path) -> None:
    """For an unwritable cache folder, the message names the setting for another one."""
    tmp_path.joinpath("state").write_text("a file")
    with pytest.raises(StateUnusable), opened(tmp_path / "state") as one:
        one.saw([(NODE, DIGEST)])


def test_layer_chains_are_cached_for_their_repository(tmp_path: Path) -> None:
    """A layer chain is the statement of one registry about one repository, and is found for no other one."""
    with opened(tmp_path) as one:
        assert one.chains("reg.test/a", [DIGEST]) == {}
        one.keep_chains("reg.test/a", {DIGEST: BODY})
    with opened(tmp_path) as one:
        assert one.chains("reg.test/a", [OTHER, DIGEST]) == {DIGEST: BODY}
        assert one.chains("reg.test/b", [DIGEST]) == {}


def test_a_cache_before_layer_chains_is_continued(tmp_path: Path) -> None:
    """A cache of version 2, which has no layer chains, keeps its content and gets them."""
    with opened(tmp_path) as one:
        one.saw([(NODE, DIGEST)])
    with sqlite3.connect(tmp_path / "learned.db") as database:
        database.execute("DROP TABLE chain")
        database.execute("PRAGMA user_version = 2")
    database.close()
    with opened(tmp_path) as one:
        one.keep_chains("reg.test/a", {DIGEST: BODY})

        assert [seen.digest for seen in one.past(NODE)] == [DIGEST]
        assert one.chains("reg.test/a", [DIGEST]) == {DIGEST: BODY}
