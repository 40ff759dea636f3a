"""The commands of the pages, in their order, in a project with an engine and two registries."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs.page_commands import PLAYS, Play, reason_not_run
from tests.docs.pages import text, typed_lines
from tests.real.engines.stage import Stage, staged

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Start one engine and two registries for all pages; each page gets an unchanged project."""
    with pytest.MonkeyPatch.context() as environment:
        folder = tmp_path_factory.mktemp("pages")
        environment.setenv("BOLTSEAL_STATE", str(folder / "state"))
        with staged(folder) as stage:
            yield stage


def before(play: Play, line: str) -> list[str]:
    return [command for begin, command in play.before.items() if begin and line.startswith(begin)]


@pytest.mark.parametrize("name", PLAYS)
def test_every_command_of_the_page_can_be_typed(name: str, stage: Stage) -> None:
    """Each command of the page ends with the documented exit code and without a traceback."""
    play = PLAYS[name]
    lines = [line for line in typed_lines(text(name)) if line and reason_not_run(name, line) is None]
    code, shown = stage.run("git checkout -q . && git clean -fdqx")
    assert code == 0, shown
    if "" in play.before:
        code, shown = stage.run(play.before[""])
        assert code == 0, shown
    for line in lines:
        for command in before(play, line):
            code, shown = stage.run(command)
            assert code == 0, f"{command}: {shown}"
        typed = line
        for documented, actual in play.replace.items():
            typed = typed.replace(documented, actual)
        code, shown = stage.run(typed)
        expected = next((codes for begin, codes in play.codes.items() if line.startswith(begin)), (0,))

        assert code in expected, f"{typed}: {shown}"
        assert "Traceback" not in shown
