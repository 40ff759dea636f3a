"""Figures as text, as JSON, and as the table in `bench/README.md`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measures import Figure
from bench.peers import BOLTSEAL

BEGIN, END = "<!-- figures -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Row:
    """A figure with the values of every round for each peer."""

    figure: Figure
    rounds: Mapping[str, Sequence[float]]

    def median(self, peer: str) -> float:
        """Return the figure of a peer."""
        return statistics.median(self.rounds[peer])

    def factor(self, peer: str) -> float | None:
        """Return how many times better boltseal is; None if one of both was not measured."""
        if BOLTSEAL not in self.rounds or peer not in self.rounds:
            return None
        ours, theirs = self.median(BOLTSEAL), self.median(peer)
        if not ours or not theirs:
            return None
        return theirs / ours if self.figure.less_is_better else ours / theirs

    def verdict(self) -> str:
        """Return whether the goals are reached, and by how much one is missed."""
        judged = {peer: self.factor(peer) for peer in self.figure.goals}
        missed = [
            f"{factor:.2f} of {self.figure.goals[peer]:g} x {peer}"
            for peer, factor in judged.items()
            if factor is not None and factor < self.figure.goals[peer]
        ]
        if not self.figure.goals or None in judged.values():
            return ""
        return "MISSED: " + ", ".join(missed) if missed else "reached"


def table(rows: Sequence[Row]) -> str:
    """Return all figures as a Markdown table: medians, and in brackets how many times better boltseal is."""
    peers = list(dict.fromkeys(peer for row in rows for peer in row.rounds))
    lines = [
        f"| | {' | '.join(peers)} | goal | |",
        f"| --- | {' | '.join('---:' for _ in peers)} | --- | --- |",
    ]
    for row in rows:
        cells = [_cell(row, peer) for peer in peers]
        goal = ", ".join(f"{factor:g} x {peer}" for peer, factor in row.figure.goals.items())
        lines.append(f"| {row.figure.title} | {' | '.join(cells)} | {goal} | {row.verdict()} |")
    return "\n".join(lines)


def write_json(path: Path, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write everything that was measured, by round."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figures = [
        {
            "name": row.figure.name,
            "title": row.figure.title,
            "unit": row.figure.unit,
            "less_is_better": row.figure.less_is_better,
            "goals": dict(row.figure.goals),
            "rounds": {peer: list(values) for peer, values in row.rounds.items()},
            "factors": {peer: row.factor(peer) for peer in row.rounds},
            "verdict": row.verdict(),
        }
        for row in rows
    ]
    path.write_text(json.dumps({"machine": dict(machine), "figures": figures}, indent=2) + "\n", encoding="utf-8")


def write_readme(path: Path, machine: Mapping[str, str], rows: Sequence[Row]) -> None:
    """Write machine and table between the marks of the page, which otherwise stays."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    facts = "\n".join(f"* {name}: {value}" for name, value in machine.items())
    path.write_text(f"{before}{BEGIN}\n{facts}\n\n{table(rows)}\n{END}{after}", encoding="utf-8")


def _cell(row: Row, peer: str) -> str:
    if peer not in row.rounds:
        return ""
    value = f"{_number(row.median(peer))} {row.figure.unit}"
    factor = None if peer == BOLTSEAL else row.factor(peer)
    return value if factor is None else f"{value} ({_number(factor)} x)"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
