"""The memory of scrub for a layer with very many entries."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.host.scrub.made_stores import DockerStore, peak_mb
from tests.soak.scale import IS_FULL, SCRUBBED_ENTRIES

pytestmark = pytest.mark.slow

LIMIT_MB = 200 if IS_FULL else 70


@pytest.mark.parametrize("in_a_folder", [1000, 5, None], ids=["thousands", "handfuls", "one-folder"])
def test_scrub_needs_less_than_200_mb_for_a_million_entries(tmp_path: Path, in_a_folder: int | None) -> None:
    """Scrub needs less than 200 MB for up to a million entries in a layer, however they are spread."""
    store = DockerStore.at(tmp_path)
    store.image_of_empty_files("many:1", SCRUBBED_ENTRIES, in_a_folder or SCRUBBED_ENTRIES)

    assert peak_mb(store.root, SCRUBBED_ENTRIES) < LIMIT_MB
