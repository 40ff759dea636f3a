"""Receipts: they prove that an entry is in the ledger, and can't be changed to prove another."""

from __future__ import annotations

import dataclasses
from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.errors import Invalid
from boltseal.ledger.checkpoint import Checkpoint, Cosignature, sign_checkpoint
from boltseal.ledger.entry import MAX_ENTRY_BYTES, Entry, EntryInvalid, EntryKind, encode
from boltseal.ledger.merkle import ProofInvalid, leaf_hash
from boltseal.ledger.note import COSIGNATURE, NoteInvalid, SigningKey
from boltseal.ledger.proof import (
    MAX_RECEIPT_BYTES,
    Receipt,
    ReceiptInvalid,
    format_receipt,
    open_receipt,
    parse_receipt_unverified,
)
from tests.ledger import tree_oracle

KEY = SigningKey("reg.example/ledger", bytes(range(32)))
WITNESS = SigningKey("witness.example/w1", b"w" * 32, COSIGNATURE)


def entry(index: int, registry: str = KEY.name, reason: str = "") -> Entry:
    return Entry(
        kind=EntryKind.TAG_CREATED,
        time_us=1_795_508_941_000_042 + index,
        registry=registry,
        repository="shop/app",
        tag=f"1.4.{index}",
        digest="sha256:" + "ab" * 32,
        reason=reason,
        salt=f"{index:032x}",
    )


ENTRIES = [encode(entry(index)) for index in range(11)]
CHECKPOINT = sign_checkpoint(Checkpoint(KEY.name, 11, tree_oracle.mth(ENTRIES)), KEY)


def receipt(index: int = 4) -> Receipt:
    return Receipt(index, tuple(tree_oracle.path(index, ENTRIES)), CHECKPOINT, ENTRIES[index])


def changed(**values: object) -> bytes:
    return format_receipt(dataclasses.replace(receipt(), **values))  # type: ignore[arg-type]  # a table of fields


@pytest.mark.parametrize("index", range(11))
def test_a_receipt_proves_its_entry(index: int) -> None:
    """A receipt proves its entry offline with the key only."""
    verified = open_receipt(format_receipt(receipt(index)), KEY.verifier)

    assert verified.entry == entry(index)
    assert verified.index == index
    assert verified.signed.checkpoint.size == 11


def test_a_receipt_is_written_as_the_specification_says() -> None:
    """Each line of a receipt is as c2sp.org/tlog-proof defines it."""
    lines = [b"c2sp.org/tlog-proof@v1", b"extra " + b64encode(ENTRIES[4]), b"index 4"]
    lines += [b64encode(one) for one in tree_oracle.path(4, ENTRIES)]

    assert format_receipt(receipt()) == b"\n".join(lines) + b"\n\n" + CHECKPOINT
    assert parse_receipt_unverified(format_receipt(receipt())) == receipt()


def test_a_receipt_in_a_ledger_of_one_entry_needs_no_hashes() -> None:
    """In a ledger of one entry a receipt has no hashes, because the entry's hash is the root."""
    only = sign_checkpoint(Checkpoint(KEY.name, 1, leaf_hash(ENTRIES[0])), KEY)

    assert open_receipt(format_receipt(Receipt(0, (), only, ENTRIES[0])), KEY.verifier).entry == entry(0)


def test_the_longest_entry_fits_in_a_receipt() -> None:
    """The longest possible entry fits into a receipt."""
    space = MAX_ENTRY_BYTES - len(ENTRIES[0])
    longest = encode(entry(0, reason="x" * space))
    only = sign_checkpoint(Checkpoint(KEY.name, 1, leaf_hash(longest)), KEY)

    assert len(longest) == MAX_ENTRY_BYTES
    assert len(open_receipt(format_receipt(Receipt(0, (), only, longest)), KEY.verifier).entry.reason) == space


def test_witnesses_in_a_receipt_are_named() -> None:
    """A receipt names the witnesses whose keys the reader has."""
    text = CHECKPOINT.decode().partition("\n\n")[0] + "\n"
    seen = CHECKPOINT + WITNESS.sign(text, 1_795_508_942).line().encode()
    verified = open_receipt(changed(checkpoint=seen), KEY.verifier, [WITNESS.verifier])

    assert verified.signed.cosignatures == (Cosignature("witness.example/w1", 1_795_508_942),)


def test_a_receipt_for_the_wrong_index_is_refused() -> None:
    """A receipt is refused for another index than the proven one."""
    for index in (0, 3, 5, 10):
        with pytest.raises(ProofInvalid):
            open_receipt(changed(index=index), KEY.verifier)


def test_a_receipt_beyond_its_tree_is_refused() -> None:
    """A receipt for an index beyond its tree is refused."""
    with pytest.raises(ProofInvalid, match="entry 11 is not in a tree of 11 entries"):
        open_receipt(changed(index=11), KEY.verifier)


def test_a_receipt_with_another_entry_is_refused() -> None:
    """A canonical entry at another index is refused."""
    with pytest.raises(ProofInvalid):
        open_receipt(changed(extra=ENTRIES[5]), KEY.verifier)


def test_a_receipt_with_another_checkpoint_is_refused() -> None:
    """A checkpoint by the same key over a tree without the entry is refused."""
    without = sign_checkpoint(Checkpoint(KEY.name, 11, tree_oracle.mth(ENTRIES[::-1])), KEY)
    with pytest.raises(ProofInvalid):
        open_receipt(changed(checkpoint=without), KEY.verifier)


def test_a_receipt_under_a_key_of_its_own_is_refused() -> None:
    """A receipt signed by a key that came with it is refused."""
    mallory = SigningKey(KEY.name, b"m" * 32)
    forged = [encode(entry(index)) for index in range(11, 22)]
    signed = sign_checkpoint(Checkpoint(KEY.name, 11, tree_oracle.mth(forged)), mallory)
    raw = format_receipt(Receipt(4, tuple(tree_oracle.path(4, forged)), signed, forged[4]))
    with pytest.raises(NoteInvalid, match="none of the trusted keys signed this note"):
        open_receipt(raw, KEY.verifier)


def test_a_receipt_for_bytes_that_are_no_entry_is_refused() -> None:
    """A receipt for bytes that are no valid entry is refused."""
    odd = b'{"v":1}'
    signed = sign_checkpoint(Checkpoint(KEY.name, 1, leaf_hash(odd)), KEY)
    with pytest.raises(EntryInvalid):
        open_receipt(format_receipt(Receipt(0, (), signed, odd)), KEY.verifier)


def test_a_receipt_for_an_entry_of_another_ledger_is_refused() -> None:
    """An entry of another ledger, copied into this tree, is refused by its origin."""
    foreign = encode(entry(0, registry="other.example"))
    signed = sign_checkpoint(Checkpoint(KEY.name, 1, leaf_hash(foreign)), KEY)
    with pytest.raises(ReceiptInvalid) as caught:
        open_receipt(format_receipt(Receipt(0, (), signed, foreign)), KEY.verifier)

    assert caught.value.message == 'the entry is of the ledger "other.example", the checkpoint of reg.example/ledger'


def test_a_receipt_without_its_entry_is_refused() -> None:
    """A valid proof without the entry itself is refused."""
    with pytest.raises(ReceiptInvalid, match="carries no entry"):
        open_receipt(changed(extra=None), KEY.verifier)


@given(st.data())
def test_no_changed_byte_changes_what_is_proven(data: st.DataObject) -> None:
    """A receipt with any changed byte is refused."""
    raw = bytearray(format_receipt(receipt()))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))

    with pytest.raises(Invalid):
        open_receipt(bytes(raw), KEY.verifier)


WHOLE = format_receipt(receipt())
HASH = b64encode(tree_oracle.path(4, ENTRIES)[0])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not a receipt: it does not begin with c2sp.org/tlog-proof@v1, or has no checkpoint"),
        (WHOLE[1:], "not a receipt: it does not begin with c2sp.org/tlog-proof@v1, or has no checkpoint"),
        (
            WHOLE.partition(b"\n\n")[0],
            "not a receipt: it does not begin with c2sp.org/tlog-proof@v1, or has no checkpoint",
        ),
        (b"c2sp.org/tlog-proof@v1\n\nx", "not a receipt: it does not say the entry's index"),
        (WHOLE.replace(b"index 4", b"index 04"), "not a receipt: it does not say the entry's index"),
        (WHOLE.replace(b"index 4", b"index -4"), "not a receipt: it does not say the entry's index"),
        (WHOLE.replace(b"index 4", b"4"), "not a receipt: it does not say the entry's index"),
        (WHOLE.replace(b"index 4", b"index " + b"9" * 19), "not a receipt: it does not say the entry's index"),
        (WHOLE.replace(b"extra ", b"extra *"), 'not a receipt: extra is "*'),
        (WHOLE.replace(HASH, b"*"), 'not a receipt: a hash of the proof is "*", which is not base64'),
        (WHOLE.replace(HASH, b"\xff"), 'not a receipt: a hash of the proof is "\\ufffd", which is not base64'),
        (WHOLE.replace(HASH, HASH + b"\r"), "not a receipt: a hash of the proof is "),
        (WHOLE.replace(HASH, b"AAAA"), "not a receipt: a hash of its proof is not 32 bytes long"),
        (b"x" * (MAX_RECEIPT_BYTES + 1), "a receipt of 1200001 bytes; at most 1200000 are read"),
    ],
)
def test_malformed_receipts_are_refused(raw: bytes, message: str) -> None:
    """Malformed receipts are refused, each with its reason."""
    with pytest.raises(ReceiptInvalid) as caught:
        parse_receipt_unverified(raw)

    assert caught.value.message.startswith(message)
