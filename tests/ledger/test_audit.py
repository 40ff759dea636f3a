"""The rules of a ledger: a consistent one passes, and each contradiction is named."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from boltseal.ledger.audit import Audit, AuditedTag, ObservationAudit
from boltseal.ledger.entry import Entry, EntryKind, encode

A = "sha256:" + "a" * 64
B = "sha256:" + "b" * 64
SEALED = {"mode": "sealed", "keep": "forever"}
FLOATING = {"mode": "floating"}


def lines(*changes: dict[str, Any]) -> list[bytes]:
    """Return entries of `shop/app:1.0.0` with changes, a microsecond apart, each naming the one before it."""
    made = []
    for index, change in enumerate(changes):
        values: dict[str, Any] = {
            "time_us": 1_000 + index,
            "registry": "reg.example",
            "repository": "shop/app",
            "tag": "1.0.0",
            "digest": A,
            "previous": index - 1,
            "salt": f"{index:032x}",
        }
        made.append(encode(Entry(**(values | change))))
    return made


def findings_in(raw: list[bytes]) -> list[list[str]]:
    audit = Audit()
    return [audit.take(index, line) for index, line in enumerate(raw)]


CREATED: dict[str, Any] = {"kind": EntryKind.TAG_CREATED, "extra": SEALED}
FLOATS: dict[str, Any] = {"kind": EntryKind.TAG_CREATED, "extra": FLOATING}


def test_a_consistent_ledger_breaks_no_rule() -> None:
    """A ledger in which tags start, move, are sealed, deleted and return breaks no rule."""
    raw = lines(
        {"kind": EntryKind.LOG_STARTED, "repository": "", "tag": "", "digest": ""},
        {"kind": EntryKind.TAG_CREATED, "previous": -1, "extra": FLOATING},
        {"kind": EntryKind.TAG_MOVED, "was": A, "digest": B, "extra": FLOATING},
        {"kind": EntryKind.TAG_CREATED, "tag": "latest", "previous": -1, "extra": FLOATING},
        {"kind": EntryKind.TAG_SEALED, "was": B, "digest": B, "previous": 2, "extra": SEALED},
        {"kind": EntryKind.TAG_DELETED, "was": B, "digest": B},
        {"kind": EntryKind.TAG_DELETED, "tag": "", "previous": -1},
        {"kind": EntryKind.TAG_CREATED, "digest": B, "previous": 5, "extra": SEALED},
    )

    assert findings_in(raw) == [[]] * len(raw)


def test_the_last_entry_of_each_tag_is_kept() -> None:
    """The audit returns each tag's digest, seal, protection and actor, and the rules in force."""
    audit = Audit()
    story: list[dict[str, Any]] = [
        {
            "kind": EntryKind.RULES_CHANGED,
            "repository": "",
            "tag": "",
            "digest": "",
            "extra": {"rules_sha256": "c" * 64},
        },
        {"kind": EntryKind.TAG_CREATED, "previous": -1, "type": "a/b", "extra": FLOATING, "actor": "ci"},
        {"kind": EntryKind.TAG_SEALED, "was": A, "type": "a/b", "extra": SEALED, "actor": "root"},
        {"kind": EntryKind.TAG_DELETED, "was": A, "type": "a/b", "actor": "dev"},
    ]
    for index, line in enumerate(lines(*story)):
        audit.take(index, line)

    assert audit.names == {
        ("shop/app", "1.0.0"): AuditedTag(3, "", "", A, "a/b", "root", "forever", 1_002, "dev", 1_003)
    }
    assert (audit.size, audit.last_time_us, audit.origin, audit.rules_sha256) == (4, 1_003, "reg.example", "c" * 64)


SETTLING = {"mode": "settling", "keep": "30d", "settles": "1970-01-01T00:01:00.000000Z"}


def test_a_settling_tag_is_not_sealed() -> None:
    """The audit knows when it is sealed and how long it is kept then; it may move until an entry seals it."""
    audit = Audit()
    story: list[dict[str, Any]] = [
        {"kind": EntryKind.TAG_CREATED, "previous": -1, "type": "a/b", "extra": SETTLING},
        {"kind": EntryKind.TAG_MOVED, "was": A, "digest": B, "type": "a/b", "extra": SEALED},
    ]
    first, second = lines(*story)
    problems = audit.take(0, first)
    settling = dataclasses.replace(audit.names["shop/app", "1.0.0"])
    problems += audit.take(1, second)
    sealed = audit.names["shop/app", "1.0.0"]

    assert problems == []
    assert (settling.bound, settling.keep, settling.settles_us) == ("", "30d", 60_000_000)
    assert (sealed.bound, sealed.keep, sealed.settles_us) == (B, "forever", 0)


def test_a_settling_tag_without_a_time_is_a_problem() -> None:
    """A ledger that lets a tag settle for ever contradicts itself."""
    line = lines({"kind": EntryKind.TAG_CREATED, "previous": -1, "extra": {"mode": "settling", "keep": "forever"}})[0]

    assert "it says that the tag settles, but not when" in Audit().take(0, line)[0]


def test_an_expected_origin_is_compared_with_the_first_entry() -> None:
    """A consistent ledger of another registry is refused when an origin is expected."""
    audit = Audit(origin="other.example")

    assert audit.take(0, lines(FLOATS)[0]) == ["it is of the ledger reg.example, this is other.example"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            [CREATED, {"kind": EntryKind.TAG_MOVED, "was": A, "digest": B, "extra": SEALED}],
            f"the tag is sealed at {A}, and this entry lets it resolve to {B}",
        ),
        (
            [CREATED, {"kind": EntryKind.TAG_UNSEALED, "was": A, "time_us": 1_000}],
            "it is not later than the entry before it",
        ),
        (
            [CREATED, {"kind": EntryKind.TAG_UNSEALED, "was": A, "registry": "other"}],
            "it is of the ledger other, this is reg.example",
        ),
        (
            [CREATED, {"kind": EntryKind.TAG_UNSEALED, "was": A, "previous": -1}],
            "its previous is -1, the last entry of shop/app:1.0.0 is 0",
        ),
        (
            [FLOATS, {"kind": EntryKind.TAG_MOVED, "was": B, "digest": B}],
            f"it says the tag resolved to {B} before; the ledger says {A}",
        ),
        (
            [FLOATS, {"kind": EntryKind.TAG_MOVED, "digest": B}],
            f"it says the tag resolved to nothing before; the ledger says {A}",
        ),
        (
            [FLOATS, {"kind": EntryKind.TAG_DELETED, "was": A, "digest": B}],
            f"it removes {B}, but the tag resolved to {A}",
        ),
        (
            [FLOATS, {"kind": EntryKind.TAG_DELETED, "was": A}, {"kind": EntryKind.TAG_EXPIRED}],
            f"it removes {A}, but the tag resolved to nothing",
        ),
        (
            [{"kind": EntryKind.TAG_MOVED, "was": A, "digest": B}],
            f"it says the tag resolved to {A} before; the ledger says nothing",
        ),
        ([CREATED, {"kind": EntryKind.TAG_CREATED, "was": A}], f"it creates a tag that exists and resolves to {A}"),
        ([{"kind": EntryKind.TAG_MOVED}], "it is a tag.moved of a tag that does not exist"),
        ([FLOATS, {"kind": EntryKind.TAG_UNSEALED, "was": A}], "it unseals a tag that was never sealed"),
    ],
)
def test_each_contradiction_is_reported(changes: list[dict[str, Any]], sentence: str) -> None:
    """Of a ledger whose last entry is wrong, only that entry is reported."""
    *before, last = findings_in(lines(*changes))

    assert before == [[]] * len(before)
    assert last == [sentence]


def test_a_missing_entry_is_named() -> None:
    """A missing entry is reported, because indexes have no gaps."""
    audit = Audit()
    first, _, third = lines(CREATED, FLOATS, {"kind": EntryKind.TAG_UNSEALED, "was": A, "previous": 0})

    assert audit.take(0, first) == []
    assert audit.take(2, third) == ["expected entry 1 here: something is missing"]
    assert audit.size == 3


def test_an_invalid_entry_is_named_and_the_audit_continues() -> None:
    """An invalid entry is reported, and the entries after it are audited."""
    first, second = lines(CREATED, {"kind": EntryKind.TAG_UNSEALED, "was": A, "previous": 0})

    assert findings_in([first, first[:-1], second])[1] == [
        "not an entry: the same values have another spelling (order, white space, escapes)"
    ]
    assert findings_in([first, first[:-1], second])[2] == []


def test_only_a_recovery_changes_the_origin() -> None:
    """A lost ledger continues under another origin, and its first entry records the recovery."""
    of_the_log = {"repository": "", "tag": "", "digest": ""}
    story: list[dict[str, Any]] = [
        {"kind": EntryKind.RULES_CHANGED, **of_the_log},
        {"kind": EntryKind.RECOVERED, **of_the_log, "registry": "reg.example/2"},
        {"kind": EntryKind.RULES_CHANGED, **of_the_log, "registry": "reg.example/2"},
        {"kind": EntryKind.RULES_CHANGED, **of_the_log},
    ]

    assert findings_in(lines(*story)) == [[], [], [], ["it is of the ledger reg.example, this is reg.example/2"]]


def observed(*changes: dict[str, Any]) -> list[list[str]]:
    audit = ObservationAudit()
    values: dict[str, Any] = {"kind": EntryKind.OBSERVED}
    return [audit.take(index, line) for index, line in enumerate(lines(*(values | change for change in changes)))]


def test_a_history_of_observations_breaks_no_rule() -> None:
    """An observation log with moves, holds, acceptances, deletions and returns breaks no rule."""
    story = observed(
        {"kind": EntryKind.LOG_STARTED, "repository": "", "tag": "", "digest": ""},
        {"previous": -1},
        {"was": A, "digest": B},
        {"kind": EntryKind.HELD, "was": B, "digest": A},
        {"kind": EntryKind.ACCEPTED, "was": B, "digest": A},
        {"was": A, "digest": "", "type": ""},
        {"was": "", "digest": A},
    )

    assert story == [[]] * 7


@pytest.mark.parametrize(
    ("lie", "sentence"),
    [
        ({"previous": 7, "was": A}, "its previous is 7"),
        ({"was": B, "digest": A}, "the log says"),
        ({"was": "", "digest": A}, "it says the tag resolved to nothing before"),
        ({"kind": EntryKind.HELD, "was": A, "digest": ""}, "it is a held of nothing"),
        ({"kind": EntryKind.TAG_CREATED, "was": A}, "which has no place in a log of observations"),
        ({"kind": EntryKind.BUILT, "was": A}, "which has no place in a log of observations"),
        ({"was": A, "tag": "", "digest": B}, "which has no place in a log of observations"),
    ],
)
def test_a_contradiction_in_a_log_of_observations_is_reported(lie: dict[str, Any], sentence: str) -> None:
    """Entries that break the rules of observation logs are reported, even if a ledger of tags could have them."""
    first, second = observed({"previous": -1}, lie)

    assert first == []
    assert any(sentence in problem for problem in second)


RECOVERED: dict[str, Any] = {"kind": EntryKind.RECOVERED, "repository": "", "tag": "", "digest": "", "previous": -1}


def test_only_a_recovery_lets_time_step_back() -> None:
    """An entry from the future, a recovery at the corrected time, and entries that follow it."""
    future = {**CREATED, "previous": -1, "time_us": 9_000_000}
    with_recovery = lines(
        future, {**RECOVERED, "time_us": 5_000}, {**CREATED, "tag": "2", "previous": -1, "time_us": 5_001}
    )
    without = lines(future, {**CREATED, "tag": "2", "previous": -1, "time_us": 5_001})
    again = lines(future, {**RECOVERED, "time_us": 5_000}, {**CREATED, "tag": "2", "previous": -1, "time_us": 4_999})

    assert findings_in(with_recovery) == [[], [], []]
    assert findings_in(without) == [[], ["it is not later than the entry before it"]]
    assert findings_in(again) == [[], [], ["it is not later than the entry before it"]]


def test_a_gap_between_the_entries_of_a_tag_may_hide_a_recovery() -> None:
    """Adjacent entries cannot: there the time must rise."""
    raw = lines(
        {**CREATED, "extra": FLOATING, "previous": -1, "time_us": 9_000_000},
        {"kind": EntryKind.TAG_MOVED, "was": A, "digest": B, "previous": 0, "extra": FLOATING, "time_us": 5_000},
    )
    found = []
    for index in (1, 2):
        audit = Audit(partial=True)
        audit.take(0, raw[0])
        found.append(audit.take(index, raw[1]))

    assert found == [["it is not later than the entry before it"], []]
