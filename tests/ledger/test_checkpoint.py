"""Checkpoints: read, signed, and trusted only from their own ledger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.ledger.checkpoint import (
    Checkpoint,
    CheckpointInvalid,
    Cosignature,
    checkpoint_of_note_unverified,
    open_checkpoint,
    parse_checkpoint_unverified,
    sign_checkpoint,
)
from boltseal.ledger.merkle import EMPTY_ROOT
from boltseal.ledger.note import COSIGNATURE, NoteInvalid, SigningKey, format_note

KEY = SigningKey("reg.example/ledger", bytes(range(32)))
OTHER = SigningKey("other.example/ledger", b"o" * 32)
WITNESSES = [SigningKey(f"witness.example/w{n}", bytes([n]) * 32, COSIGNATURE) for n in (1, 2, 3)]
HEAD = Checkpoint("reg.example/ledger", 20_852_163, b"\x0a" * 32)
TEXT = "reg.example/ledger\n20852163\nCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgoKCgo=\n"


def test_a_checkpoint_is_three_lines() -> None:
    """A checkpoint has the lines of C2SP tlog-checkpoint: origin, size, root."""

    assert HEAD.text() == TEXT
    assert parse_checkpoint_unverified(TEXT) == HEAD


@given(
    st.integers(1, 2**63 - 1),
    st.binary(min_size=32, max_size=32),
    st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1), max_size=3).map(tuple),
)
def test_a_checkpoint_is_read_as_it_was_signed(size: int, root: bytes, extensions: tuple[str, ...]) -> None:
    """A checkpoint is read as signed, with the extension lines of other ledgers."""
    checkpoint = Checkpoint(KEY.name, size, root, extensions)
    raw = sign_checkpoint(checkpoint, KEY)

    assert open_checkpoint(raw, KEY.verifier).checkpoint == checkpoint
    assert open_checkpoint(raw, KEY.verifier).raw == raw
    assert checkpoint_of_note_unverified(raw) == checkpoint


def test_a_key_of_another_name_signs_no_checkpoint() -> None:
    """The name of the key must be the origin, or every reader would refuse the checkpoint."""
    with pytest.raises(CheckpointInvalid, match='key of "other'):
        sign_checkpoint(HEAD, OTHER)


def test_the_empty_ledger_has_a_checkpoint() -> None:
    """The checkpoint of an empty ledger has size 0 and the one possible root."""
    empty = Checkpoint(KEY.name, 0, EMPTY_ROOT)

    assert open_checkpoint(sign_checkpoint(empty, KEY), KEY.verifier).checkpoint == empty


def test_known_witnesses_are_named_with_their_time() -> None:
    """Known witnesses are listed with their times, and unknown ones are ignored."""
    signatures = [KEY.sign(TEXT), *(witness.sign(TEXT, 1000 + n) for n, witness in enumerate(WITNESSES))]
    raw = format_note(TEXT, signatures)
    known = [witness.verifier for witness in WITNESSES[:2]]

    assert open_checkpoint(raw, KEY.verifier, known).cosignatures == (
        Cosignature("witness.example/w1", 1000),
        Cosignature("witness.example/w2", 1001),
    )


def test_a_witness_counts_once() -> None:
    """A witness counts once, however often it signed."""
    witness = WITNESSES[0]
    raw = format_note(TEXT, [KEY.sign(TEXT), witness.sign(TEXT, 1), witness.sign(TEXT, 2)])

    assert open_checkpoint(raw, KEY.verifier, [witness.verifier]).cosignatures == (Cosignature(witness.name, 2),)


def test_a_false_cosignature_invalidates_the_checkpoint() -> None:
    """A checkpoint with an invalid cosignature is refused as a whole."""
    witness = WITNESSES[0]
    raw = format_note(TEXT, [KEY.sign(TEXT), witness.sign("another\n")])
    with pytest.raises(NoteInvalid):
        open_checkpoint(raw, KEY.verifier, [witness.verifier])


def test_a_checkpoint_signed_by_witnesses_only_is_refused() -> None:
    """A checkpoint without the ledger's own signature is refused, even if witnesses signed it."""
    witness = WITNESSES[0]
    with pytest.raises(CheckpointInvalid, match="the checkpoint is not signed by the ledger's key reg"):
        open_checkpoint(format_note(TEXT, [witness.sign(TEXT, 1)]), KEY.verifier, [witness.verifier])


def test_a_checkpoint_of_another_ledger_is_refused() -> None:
    """A checkpoint of another ledger is refused, even if the expected key signed it."""
    text = Checkpoint(OTHER.name, 1, bytes(32)).text()
    with pytest.raises(CheckpointInvalid) as caught:
        open_checkpoint(format_note(text, [KEY.sign(text)]), KEY.verifier)

    assert caught.value.message == (
        'the checkpoint is of the ledger "other.example/ledger", the key of "reg.example/ledger"'
    )
    with pytest.raises(NoteInvalid, match="none of the trusted keys"):
        open_checkpoint(sign_checkpoint(Checkpoint(OTHER.name, 1, bytes(32)), OTHER), KEY.verifier)


def test_a_key_signs_for_its_own_ledger_only() -> None:
    """A key signs only for the ledger in its name, so a wrong configuration makes no signature."""
    with pytest.raises(CheckpointInvalid, match="can't sign for the ledger"):
        sign_checkpoint(Checkpoint(OTHER.name, 1, bytes(32)), KEY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a checkpoint; expected lines of origin, size and root"),
        ("a\n1\n", "not a checkpoint; expected lines of origin, size and root"),
        (TEXT[:-1], "not a checkpoint; expected lines of origin, size and root"),
        ("\n" + TEXT.partition("\n")[2], "not a checkpoint; expected lines of origin, size and root"),
        (TEXT + "\n", "not a checkpoint; expected lines of origin, size and root"),
        (TEXT.replace("2085", "0085"), 'size is "00852163"; expected a number of entries'),
        (TEXT.replace("20852163", "-1"), 'size is "-1"; expected a number of entries'),
        (
            TEXT.replace("20852163", "9223372036854775808"),
            'size is "9223372036854775808"; expected a number of entries',
        ),
        (TEXT.replace("20852163", "9" * 30), 'size is "999999999999999999999999999999"; expected a number of entries'),
        (TEXT.replace("20852163", "0"), "a checkpoint of no entries has the wrong root"),
        ("a\n1\nCgo=\n", 'root is "Cgo="; expected 32 bytes in base64'),
        ("a\n1\n*\n", 'root is "*"; expected 32 bytes in base64'),
    ],
)
def test_malformed_text_is_refused(text: str, message: str) -> None:
    """Malformed text is refused as a checkpoint, signed or not."""
    with pytest.raises(CheckpointInvalid) as caught:
        parse_checkpoint_unverified(text)

    assert caught.value.message == message


@pytest.mark.parametrize(
    "checkpoint",
    [
        Checkpoint("a\nb", 1, bytes(32)),
        Checkpoint("", 1, bytes(32)),
        Checkpoint("a", -1, bytes(32)),
        Checkpoint("a", 1, bytes(31)),
        Checkpoint("a", 1, bytes(32), ("",)),
        Checkpoint("a", 1, bytes(32), ("b\nc",)),
    ],
)
def test_what_could_not_be_read_is_not_signed(checkpoint: Checkpoint) -> None:
    """A checkpoint with a newline in a value is not signed, since it would be read as another one."""
    with pytest.raises(CheckpointInvalid):
        checkpoint.text()
