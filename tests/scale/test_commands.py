"""No command grows faster than n log n with what a registry has. The table is shown with `pytest -s`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from boltseal.cli.command_rows import Group
from boltseal.cli.command_table import SECTIONS
from tests.scale.command_cases import CASES, NOT_MEASURED, CommandCase, Place
from tests.scale.growth import MAX_EXPONENT, Growth, least_seconds_blocking, table
from tests.serving import copy_of
from tests.thread_server import boltseal_in_thread

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def growths(stores: Mapping[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Growth]:
    """The growth of every case, by name."""
    found = {case.name: Growth(case.name) for case in CASES}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for size, data in stores.items():
            folder = tmp_path_factory.mktemp(f"commands-{size}")
            environment.setenv("BOLTSEAL_STATE", str(folder / "state"))
            with boltseal_in_thread(copy_of(data, folder / "served")) as server:
                place = Place(copy_of(data, folder / "offline"), server.address, size, folder)
                for case in CASES:
                    seconds = least_seconds_blocking(partial(case.act, place), case.runs)
                    found[case.name].seconds[size] = seconds
                    sys.stdout.write(f"{size:>9} {1000 * seconds:9.1f} ms  {case.name}\n")
                    sys.stdout.flush()
            shutil.rmtree(folder)
    sys.stdout.write(f"\n{table(found)}\n")
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_no_command_grows_faster_than_n_log_n(growths: Mapping[str, Growth], case: CommandCase) -> None:
    """Ten times the size is at most about twenty times the processor time, for the command and its server together."""
    assert growths[case.name].exponent <= MAX_EXPONENT, str(growths[case.name])


def test_every_command_is_measured() -> None:
    """Each command is in the table of cases, or in the list of those that need no measurement, with the reason."""
    commands = {
        command.name
        for section in SECTIONS
        for entry in section.entries
        for command in (entry.commands if isinstance(entry, Group) else (entry,))
    }
    measured = {case.command for case in CASES}

    assert commands - measured - NOT_MEASURED.keys() == set()
    assert measured | NOT_MEASURED.keys() <= commands
    assert not measured & NOT_MEASURED.keys()
