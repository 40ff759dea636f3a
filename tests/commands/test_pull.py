"""Which images `pull` pulls, and which replaced images it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from boltseal.commands.outcome import Outcome
from boltseal.commands.pull import PullImagesRequest, PullRow
from boltseal.errors import Invalid, Precondition, Unavailable
from boltseal.oci.reference import Reference
from boltseal.policy.durations import Duration

NAME = Reference.parse("r.test/a:1")


@pytest.mark.parametrize("arguments", [{}, {"refs": ("r.test/a:1",), "compose": (Path("compose.yaml"),)}])
def test_either_references_or_compose_files_are_pulled(arguments: dict[str, Any]) -> None:
    """References and Compose files exclude each other, and one of them is needed."""
    with pytest.raises(Invalid, match="and not both"):
        PullImagesRequest(**arguments)


def test_the_project_is_the_folder_of_the_first_compose_file() -> None:
    """The project is the first Compose file's folder, unless `--project` is given."""
    files = (Path("shop/compose.yaml"), Path("other/compose.yaml"))

    assert PullImagesRequest(compose=files).root == Path("shop")
    assert PullImagesRequest(compose=files, project=Path("top")).root == Path("top")


def test_the_retention_is_a_duration() -> None:
    """`--keep-for` is converted to microseconds, as records of kept images have it."""
    assert PullImagesRequest(refs=("a",), keep_for=Duration.parse("30d")).policy.for_us == 30 * 86_400_000_000
    assert PullImagesRequest(refs=("a",)).policy.for_us is None


def test_an_image_that_failed_decides_the_outcome_by_its_error() -> None:
    """The failed image's error decides the outcome: refused is "differs", not pulled is "unknown"."""
    assert PullRow(NAME, error=Precondition("other bytes")).outcome is Outcome.DIFFERS
    assert PullRow(NAME, error=Unavailable("busy")).outcome is Outcome.UNKNOWN
    assert PullRow(NAME, waits_for=2).outcome is Outcome.HOLDS
    assert "2 other images could not be pulled" in PullRow(NAME, waits_for=2).reason
