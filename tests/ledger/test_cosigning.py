"""What a witness checks before it cosigns: the sentences of C2SP tlog-witness, and lies of a ledger."""

from __future__ import annotations

from base64 import b64encode

import pytest

from boltseal.errors import BoltsealError, Denied, Invalid, NotFound, Precondition
from boltseal.ledger.checkpoint import Checkpoint
from boltseal.ledger.cosigning import (
    MAX_PROOF_LINES,
    KnownLogs,
    NotConsistent,
    SizeDiffers,
    SubmissionInvalid,
    check_extends,
    known_logs,
    open_submission,
    parse_submission,
)
from boltseal.ledger.note import COSIGNATURE, KeyInvalid, SigningKey, format_note
from tests.ledger.tree_oracle import mth, proof

KEY = SigningKey("log.example.com", bytes(range(32)))
OTHER = SigningKey("log.example.com", bytes(range(1, 33)))
LOGS = {KEY.name: (KEY.verifier,)}
ENTRIES = [f"entry {number}".encode() for number in range(9)]
FORKED = [*ENTRIES[:4], b"another", *ENTRIES[5:]]


def checkpoint(size: int, entries: list[bytes] = ENTRIES, origin: str = KEY.name) -> Checkpoint:
    return Checkpoint(origin, size, mth(entries[:size]))


def signed(text: str, *keys: SigningKey) -> bytes:
    return format_note(text, [key.sign(text) for key in keys or (KEY,)])


def body(old: int | str, hashes: list[bytes], note: bytes) -> bytes:
    """Return a request as the specification shows it."""
    lines = [f"old {old}", *(b64encode(one).decode() for one in hashes), "", ""]
    return "\n".join(lines).encode() + note


def judge(request: bytes, seen: Checkpoint | None, logs: KnownLogs = LOGS) -> Checkpoint:
    """Do what a witness does with a request."""
    opened = open_submission(parse_submission(request), logs)
    check_extends(opened, seen)
    return opened.checkpoint


@pytest.mark.parametrize("old", range(10))
@pytest.mark.parametrize("new", range(10))
def test_every_pair_of_sizes_is_proven_by_the_proof_of_rfc_6962(old: int, new: int) -> None:
    """A checkpoint is accepted from any earlier one with the proof of RFC 6962, section 2.1.2; from a larger one it is refused."""
    seen = checkpoint(old) if old else None
    request = body(old, proof(old, ENTRIES[:new]), signed(checkpoint(new).text()))
    if old > new:
        with pytest.raises(SubmissionInvalid, match="expected at most"):
            judge(request, seen)
    else:
        assert judge(request, seen) == checkpoint(new)


@pytest.mark.parametrize("old", range(1, 9))
def test_a_fork_is_refused_from_every_size_behind_its_entry(old: int) -> None:
    """A ledger that changed entry 4 is refused by each witness that saw it, and proves nothing to one that saw fewer entries."""
    request = body(old, proof(old, FORKED), signed(checkpoint(9, FORKED).text()))
    if old > 4:
        with pytest.raises(NotConsistent):
            judge(request, checkpoint(old))
    else:
        assert judge(request, checkpoint(old)).size == 9


def test_another_root_of_the_same_size_is_refused() -> None:
    """If the old size matches the checkpoint size, the root hashes must be identical."""
    with pytest.raises(NotConsistent):
        judge(body(9, [], signed(checkpoint(9, FORKED).text())), checkpoint(9))


@pytest.mark.parametrize("old", [0, 3, 5, 9])
def test_another_old_size_is_answered_with_the_size_that_was_cosigned(old: int) -> None:
    """The old size must match that of the checkpoint that was cosigned last; the answer names it."""
    with pytest.raises(SizeDiffers) as refused:
        judge(body(old, proof(old, ENTRIES), signed(checkpoint(9).text())), checkpoint(4))

    assert refused.value.size == 4


def test_a_ledger_that_was_never_cosigned_begins_at_zero() -> None:
    """The size is zero if no checkpoint was cosigned for the origin."""
    with pytest.raises(SizeDiffers) as refused:
        judge(body(4, proof(4, ENTRIES), signed(checkpoint(9).text())), None)

    assert refused.value.size == 0


def test_a_proof_from_zero_must_be_empty() -> None:
    """If the old size is zero, the consistency proof must be empty."""
    with pytest.raises(NotConsistent):
        judge(body(0, proof(4, ENTRIES), signed(checkpoint(9).text())), None)


@pytest.mark.parametrize(
    "hashes",
    [[], proof(5, ENTRIES)[:-1], [*proof(5, ENTRIES), bytes(32)], proof(5, ENTRIES)[::-1], proof(5, FORKED)],
)
def test_a_wrong_proof_is_refused(hashes: list[bytes]) -> None:
    """A proof that is missing, short, long, out of order, or of another tree does not verify."""
    with pytest.raises(NotConsistent):
        judge(body(5, hashes, signed(checkpoint(9).text())), checkpoint(5))


def test_no_entries_have_one_root() -> None:
    """A checkpoint of size zero must have the root of the empty tree."""
    wrong = f"{KEY.name}\n0\n{b64encode(bytes(32)).decode()}\n"

    assert judge(body(0, [], signed(checkpoint(0).text())), None).size == 0
    with pytest.raises(NotConsistent, match="no entries"):
        judge(body(0, [], signed(wrong)), None)


def test_an_unknown_origin_is_not_found() -> None:
    """A checkpoint whose origin is unknown is 404, also if a known key signed it."""
    text = checkpoint(3, origin="other.example.com").text()
    with pytest.raises(NotFound, match="other"):
        judge(body(0, [], signed(text)), None)


@pytest.mark.parametrize("keys", [(OTHER,), (SigningKey("other.example.com", KEY.seed),)])
def test_a_signature_by_an_unknown_key_is_denied(keys: tuple[SigningKey, ...]) -> None:
    """Without a signature of a trusted key for the origin the answer is 403."""
    with pytest.raises(Denied):
        judge(body(0, [], signed(checkpoint(3).text(), *keys)), None)


def test_an_altered_checkpoint_is_denied_also_beside_a_valid_signature() -> None:
    """A signature line of a trusted key that fails to verify makes the note invalid: 403, also if a second trusted key signed."""
    text = checkpoint(3).text()
    stale = KEY.sign(checkpoint(2).text())
    logs = known_logs([str(KEY.verifier), str(OTHER.verifier)])
    for signatures in ([stale], [stale, OTHER.sign(text)], [KEY.sign(text), stale]):
        with pytest.raises(Denied):
            open_submission(parse_submission(body(0, [], format_note(text, signatures))), logs)


def test_signatures_by_unknown_keys_are_ignored_and_not_kept() -> None:
    """The witness ignores signatures from unknown keys; only those that it verified are kept, each once."""
    text = checkpoint(3).text()
    note = format_note(text, [OTHER.sign(text), KEY.sign(text), KEY.sign(text)])
    opened = open_submission(parse_submission(body(0, [], note)), LOGS)

    assert opened.signatures == (KEY.sign(text),)


def test_a_ledger_may_change_its_key() -> None:
    """Of two keys of one origin each is enough; an origin may be another name than its key's, with spaces."""
    logs = known_logs([str(KEY.verifier), str(OTHER.verifier), f"{KEY.verifier} go.sum database tree"])
    old = open_submission(parse_submission(body(0, [], signed(checkpoint(3).text(), KEY))), logs)
    new = open_submission(parse_submission(body(0, [], signed(checkpoint(3).text(), OTHER))), logs)
    tree = checkpoint(3, origin="go.sum database tree")
    named = open_submission(parse_submission(body(0, [], signed(tree.text()))), logs)

    assert old.checkpoint == new.checkpoint == checkpoint(3)
    assert named.checkpoint == tree


@pytest.mark.parametrize(
    "text",
    [
        "",
        "log.example.com",
        str(SigningKey("w", KEY.seed, COSIGNATURE).verifier),
        f"{KEY.verifier} a\tb",
        f"{KEY.verifier}  a",
    ],
)
def test_what_is_no_key_of_a_ledger_is_refused(text: str) -> None:
    """A key of a witness, a text that is no key, and an origin that is no line are refused."""
    with pytest.raises(KeyInvalid):
        known_logs([text])


def test_extension_lines_are_cosigned_as_they_are() -> None:
    """Extension lines are part of what is cosigned."""
    text = checkpoint(3).text() + "extension 1\n"

    assert open_submission(parse_submission(body(0, [], signed(text))), LOGS).text == text


NOTE = signed(checkpoint(3).text())


@pytest.mark.parametrize(
    "request_body",
    [
        b"",
        b"old 0",
        b"\n\n" + NOTE,
        b"old 0\n" + NOTE.replace(b"\n\n", b"\n"),
        body("00", [], NOTE),
        body("-1", [], NOTE),
        body("+1", [], NOTE),
        body("1e3", [], NOTE),
        body("", [], NOTE),
        body(2**63, [], NOTE),
        body("9" * 40, [], NOTE),
        body("٣", [], NOTE),
        b" " + body(0, [], NOTE),
        body(0, [], NOTE).replace(b"old 0\n", b"old 0\r\n"),
        body(0, [b"short"], NOTE),
        body(0, [bytes(33)], NOTE),
        body(0, [bytes(32)] * (MAX_PROOF_LINES + 1), NOTE),
        b"old 0\nnot base64!\n\n" + NOTE,
        body(0, [], NOTE[:-1]),
        body(0, [], b"\xff" + NOTE),
        body(0, [], signed(f"{KEY.name}\n3\n")),
        body(0, [], signed(f"{KEY.name}\n03\n{b64encode(bytes(32)).decode()}\n")),
        body(0, [], signed(f"{KEY.name}\n3\n{b64encode(bytes(31)).decode()}\n")),
        body(0, [], signed(f"{KEY.name}\n0\n")),
        body(0, [], signed(f"{KEY.name}\n")),
    ],
)
def test_what_is_malformed_is_refused(request_body: bytes) -> None:
    """A malformed request is 400, whatever signed it."""
    with pytest.raises(BoltsealError) as refused:
        judge(request_body, None)

    assert isinstance(refused.value, Invalid)
    assert not isinstance(refused.value, NotConsistent | Precondition)
