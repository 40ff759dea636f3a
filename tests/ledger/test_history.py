"""The entries about one repository must be consistent, whichever registry shows them."""

from __future__ import annotations

from boltseal.ledger.entry import EntryKind, parse
from boltseal.ledger.history import check, contradiction
from tests.fakes.ledger import START_US, A, B, C, FakeLedger

SHOP = "shop/app"


def story() -> FakeLedger:
    """Return entries: latest with A, B, deleted; 1.0.0 with A; one of another repository between."""
    ledger = FakeLedger()
    ledger.push("latest", digest=A, mode="floating")
    ledger.push("1.0.0", digest=A)
    ledger.add(EntryKind.TAG_CREATED, C, repository="shop/other", tag="latest")
    ledger.push("latest", digest=B, mode="floating")
    ledger.add(EntryKind.TAG_DELETED, B, tag="latest", extra={})
    ledger.add(EntryKind.TAG_DELETED, C, tag="", extra={})
    return ledger


def lines(ledger: FakeLedger, repository: str = SHOP) -> list[tuple[int, bytes]]:
    return [(index, line) for index, line in enumerate(ledger.entries) if parse(line).repository == repository]


def test_a_complete_history_breaks_no_rule() -> None:
    """A repository's complete history breaks no rule, although most of the ledger is missing in it."""
    history = check(SHOP, lines(story()))

    assert history.problems == ()
    assert [one.index for one in history.of("latest")] == [1, 4, 5]
    assert [one.gone for one in history.of("latest")] == [False, False, True]


def test_the_digest_of_every_tag_at_a_time() -> None:
    """For a given time, each tag's last entry until then decides; a deleted tag is left out."""
    history = check(SHOP, lines(story()))
    then = {second: history.at(START_US + second * 1_000_000) for second in (0, 1, 4, 9)}
    digests = {
        second: {tag: entry_at.entry.digest for tag, entry_at in found.items()} for second, found in then.items()
    }

    assert digests == {0: {}, 1: {"latest": A}, 4: {"latest": B, "1.0.0": A}, 9: {"1.0.0": A}}


def test_the_tags_of_each_image_are_listed() -> None:
    """All tags that ever resolved to an image are listed."""
    history = check(SHOP, lines(story()))

    assert history.tags_by_digest() == {A: ("1.0.0", "latest"), B: ("latest",)}


def test_a_record_about_an_image_is_no_move_of_its_tag() -> None:
    """The record of a build of a former image does not change what the tag resolves to."""
    ledger = story()
    ledger.add(EntryKind.BUILT, A, tag="latest", was="", previous=5, extra={})
    ledger.tags["shop/app", "latest"] = ""
    history = check(SHOP, lines(ledger))

    assert history.problems == ()
    assert not history.of("latest")[-1].changes
    assert [one.index for one in history.changes_of("latest")] == [1, 4, 5]
    assert "latest" not in history.at(START_US + 9_000_000)
    assert contradiction(history.of("latest"), "") is None


def test_a_withheld_entry_breaks_the_chain() -> None:
    """A withheld entry is noticed, because each entry names the one before it."""
    history = check(SHOP, [one for one in lines(story()) if one[0] != 4])

    assert "entry 5: its previous is 4, the last entry of shop/app:latest is 1" in history.problems


def test_a_withheld_newest_entry_contradicts_the_tag() -> None:
    """If the newest entry is withheld, the history contradicts the digest that the registry serves."""
    result = check(SHOP, lines(story())).of("latest")

    assert contradiction(result, "") is None
    assert contradiction(result[:2], B) is None
    assert contradiction(result[:2], "") == f"the tag resolves to nothing, and its last entry 4 says {B}"
    assert contradiction(result, A) == f"the tag resolves to {A}, and its last entry 5 says nothing"
    assert contradiction((), A) == f"the tag resolves to {A}, and the ledger says nothing of it"


def test_an_invalid_history_is_reported() -> None:
    """Invalid bytes, a wrong order, and entries of another repository are reported."""
    ledger = story()
    history = check(
        SHOP,
        [(2, ledger.entries[2]), (1, ledger.entries[1]), (3, ledger.entries[3]), (4, b"{}"), (9, ledger.entries[0])],
    )

    assert len(history.entries) == 2
    assert any(problem.startswith("entry 1: it follows an entry with a higher index") for problem in history.problems)
    assert "entry 3: it is about shop/other, not shop/app" in history.problems
    assert any(problem.startswith("entry 4: not an entry") for problem in history.problems)
    assert "entry 9: it is about no repository, not shop/app" in history.problems
