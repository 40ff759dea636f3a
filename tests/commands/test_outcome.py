"""The outcome of a use case."""

from __future__ import annotations

import pytest

from boltseal.commands.outcome import Outcome


@pytest.mark.parametrize("other", list(Outcome))
def test_differs_beats_unknown_and_unknown_beats_holds(other: Outcome) -> None:
    """The worst outcome counts: differs (1) before unknown (3) before holds (0)."""
    assert other.worse(Outcome.DIFFERS) is Outcome.DIFFERS
    assert other.worse(Outcome.HOLDS) is other
    assert Outcome.HOLDS.worse(Outcome.UNKNOWN) is Outcome.UNKNOWN


def test_the_worst_of_several_outcomes() -> None:
    """One difference outweighs everything else, and nothing at all holds."""
    assert Outcome.worst([Outcome.HOLDS, Outcome.DIFFERS, Outcome.UNKNOWN]) is Outcome.DIFFERS
    assert Outcome.worst(iter([Outcome.HOLDS, Outcome.UNKNOWN])) is Outcome.UNKNOWN
    assert Outcome.worst([]) is Outcome.HOLDS
