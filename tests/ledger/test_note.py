"""Signed notes and their keys: equal to Go's, and which signatures are trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from boltseal.ledger.note import (
    COSIGNATURE,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    KeyInvalid,
    NoteInvalid,
    SigningKey,
    VerifierKey,
    cosigned_at_unverified,
    format_note,
    open_note,
    parse_note_unverified,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "tlog.json").read_text())
SEED = bytes(range(32))
ALICE = SigningKey("reg.example/ledger", SEED)
MALLORY = SigningKey("reg.example/ledger", bytes(32))
WITNESS = SigningKey("witness.example/w1", b"w" * 32, COSIGNATURE)
TEXT = "one\n\ntwo \u00e8\n"


def note_of(*signers: SigningKey, text: str = TEXT) -> bytes:
    return format_note(text, [signer.sign(text, time_s=1_795_508_941) for signer in signers])


def test_go_writes_the_same_keys_and_the_same_note() -> None:
    """Go writes the same keys and, since Ed25519 is deterministic, the same signed note."""
    key = SigningKey.parse(VECTORS["skey"])

    assert key == ALICE
    assert key.private_text() == VECTORS["skey"]
    assert str(key.verifier) == VECTORS["vkey"]
    assert format_note(VECTORS["text"], [key.sign(VECTORS["text"])]).decode() == VECTORS["note"]
    assert open_note(VECTORS["note"].encode(), [VerifierKey.parse(VECTORS["vkey"])]).text == VECTORS["text"]


def test_a_cosignature_signs_a_header_a_time_and_the_text() -> None:
    """tlog-cosignature: eight bytes of time, then Ed25519 over two lines and the whole note text."""
    raw = note_of(WITNESS)
    (signature,) = parse_note_unverified(raw).signatures
    verified = open_note(raw, [WITNESS.verifier]).by(WITNESS.verifier)
    Ed25519PublicKey.from_public_bytes(WITNESS.verifier.public).verify(
        signature.value[8:], b"cosignature/v1\ntime 1795508941\n" + TEXT.encode()
    )

    assert signature.value[:8] == (1_795_508_941).to_bytes(8)
    assert verified is not None
    assert verified.time_s == 1_795_508_941
    assert cosigned_at_unverified(signature) == 1_795_508_941


def test_a_witness_signs_the_time_too() -> None:
    """A cosignature whose time was changed is invalid."""
    raw = note_of(WITNESS)
    (signature,) = parse_note_unverified(raw).signatures
    later = type(signature)(signature.name, signature.key_id, (1_795_508_942).to_bytes(8) + signature.value[8:])
    with pytest.raises(NoteInvalid, match="does not hold"):
        open_note(format_note(TEXT, [later]), [WITNESS.verifier])


def test_a_log_signature_is_no_cosignature_and_vice_versa() -> None:
    """One seed and name give two key IDs for a log and a witness, whose signatures are not interchangeable."""
    log, witness = (SigningKey("a", SEED, type_) for type_ in (ED25519, COSIGNATURE))
    with pytest.raises(NoteInvalid, match="none of the trusted keys signed this note"):
        open_note(note_of(log), [witness.verifier])
    with pytest.raises(NoteInvalid, match="none of the trusted keys signed this note"):
        open_note(note_of(witness), [log.verifier])

    assert log.verifier.key_id != witness.verifier.key_id


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])).map(lambda text: text + "\n"))
def test_a_signed_text_is_read_unchanged(text: str) -> None:
    """A signed text is read unchanged, including empty lines."""

    assert open_note(note_of(ALICE, text=text), [ALICE.verifier]).text == text


@given(st.data())
def test_no_changed_byte_is_accepted(data: st.DataObject) -> None:
    """A note with any changed byte gives the signed text, or is refused."""
    raw = bytearray(note_of(ALICE))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))

    with pytest.raises(NoteInvalid):
        open_note(bytes(raw), [ALICE.verifier])


def test_another_key_of_the_same_name_proves_nothing() -> None:
    """Another key with a known name is not trusted."""
    with pytest.raises(NoteInvalid) as caught:
        open_note(note_of(MALLORY), [ALICE.verifier])

    assert caught.value.message == 'none of the trusted keys signed this note; it is signed by "reg.example/ledger"'


def test_unknown_signatures_are_ignored() -> None:
    """Unknown signatures are ignored, so that keys can be rotated and witnesses added."""
    opened = open_note(note_of(MALLORY, WITNESS, ALICE), [ALICE.verifier])

    assert [one.signature.name for one in opened.verified] == ["reg.example/ledger"]
    assert opened.by(WITNESS.verifier) is None


def test_one_false_signature_by_a_known_key_invalidates_the_note() -> None:
    """An invalid signature by a known key invalidates the note, even beside a valid one."""
    good, bad = ALICE.sign(TEXT), ALICE.sign("another\n")
    with pytest.raises(NoteInvalid) as caught:
        open_note(format_note(TEXT, [good, bad]), [ALICE.verifier])

    assert caught.value.message == 'the signature by "reg.example/ledger" does not hold: altered, or by another key'


@pytest.mark.parametrize("value", [b"", b"x", b"\x00" * 8, b"\x00" * 63, b"\x00" * 100])
@pytest.mark.parametrize("key", [ALICE, WITNESS])
def test_a_signature_of_any_length_is_only_invalid(key: SigningKey, value: bytes) -> None:
    """A signature of any length raises only NoteInvalid."""
    signature = type(key.sign(TEXT))(key.name, key.verifier.key_id, value)
    with pytest.raises(NoteInvalid):
        open_note(format_note(TEXT, [signature]), [key.verifier])


LINE = ALICE.sign(TEXT).line()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ("", "not a signed note: there is no empty line with signatures below it"),
        (TEXT, '"two \\xe8" is not a signature line'),
        (f"a\n{LINE}", "not a signed note: there is no empty line with signatures below it"),
        (f"a\n\n{LINE}"[:-1], "not a signed note: there is no empty line with signatures below it"),
        ("a\n\n\n", "not a signed note: there is no empty line with signatures below it"),
        (f"a\r\n\n{LINE}", "not a note: its text must end in a newline and have no other control character"),
        (f"a\tb\n\n{LINE}", "not a note: its text must end in a newline and have no other control character"),
        ("a\n\n- b AAAAAAAA\n", '"- b AAAAAAAA" is not a signature line'),
        ("a\n\n\u2014 b\n", '"\\u2014 b" is not a signature line'),
        ("a\n\n\u2014 b AAAA\n", '"\\u2014 b AAAA" is not a signature line'),
        ("a\n\n\u2014 b AAAAAAB=\n", '"\\u2014 b AAAAAAB=" is not a signature line'),
        ("a\n\n\u2014 b AAAA AAAA\n", '"\\u2014 b AAAA AAAA" is not a signature line'),
        ("a\n\n\u2014 b+c AAAAAAAA\n", '"\\u2014 b+c AAAAAAAA" is not a signature line'),
        ("a\n\n\u2014 b\u00a0c AAAAAAAA\n", '"\\u2014 b\\xa0c AAAAAAAA" is not a signature line'),
        ("a\n\n\u2014 b\x01c AAAAAAAA\n", '"\\u2014 b\\x01c AAAAAAAA" is not a signature line'),
        ("a\n\n\u2014  AAAAAAAA\n", '"\\u2014  AAAAAAAA" is not a signature line'),
        ("a\n\n" + LINE * (MAX_SIGNATURES + 1), "a note with 101 signatures; at most 100 are read"),
        ("a" * MAX_NOTE_BYTES + "\n", "a note of 1000001 bytes; at most 1000000 are read"),
    ],
)
def test_malformed_notes_are_refused(raw: str, message: str) -> None:
    """Malformed notes are refused, each with its reason."""
    with pytest.raises(NoteInvalid) as caught:
        parse_note_unverified(raw.encode())

    assert caught.value.message == message


def test_a_note_is_utf_8() -> None:
    """A note that is not UTF-8 is refused."""
    with pytest.raises(NoteInvalid, match="it is not UTF-8"):
        parse_note_unverified(b"\xff\n\n" + LINE.encode())


@pytest.mark.parametrize("text", ["", "a", "a\x00\n", "a\r\n"])
def test_a_note_that_could_not_be_parsed_is_not_written(text: str) -> None:
    """A text without its final newline can't be signed, since it could not be parsed."""
    with pytest.raises(NoteInvalid):
        format_note(text, [ALICE.sign(text)])


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_invalid(raw: bytes) -> None:
    """Arbitrary bytes raise only NoteInvalid."""
    with pytest.raises(NoteInvalid):
        open_note(raw, [ALICE.verifier])


@pytest.mark.parametrize("key", [ALICE, WITNESS])
def test_keys_are_read_as_they_were_written(key: SigningKey) -> None:
    """Private and public keys that are written and read again are equal."""

    assert SigningKey.parse(key.private_text()) == key
    assert VerifierKey.parse(str(key.verifier)) == key.verifier


def test_a_private_key_does_not_show_itself() -> None:
    """The repr of a private key shows no secret, neither in a log nor in a traceback."""

    assert "seed" not in repr(ALICE)
    assert SEED.hex() not in repr(ALICE)


VKEY = str(ALICE.verifier)
SKEY = ALICE.private_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a key; expected name+8 hex digits+base64, as `boltseal ledger key` prints it"),
        ("a+12345678+", "not a key; expected name+8 hex digits+base64, as `boltseal ledger key` prints it"),
        ("a+12345678+A", "not a key; expected name+8 hex digits+base64, as `boltseal ledger key` prints it"),
        (VKEY + "\n", "not a key; expected name+8 hex digits+base64, as `boltseal ledger key` prints it"),
        (VKEY.replace("ledger", "other"), "key ID 70ccef7a is not this key's, which is ebc1d121"),
        (
            VKEY.replace("ledger", "le dger"),
            '"reg.example/le dger" is not a key name; expected one without spaces and plus',
        ),
        ("a+12345678+AgAA", "key of type 2, 2 bytes; expected Ed25519 (type 1 or 4), 32 bytes"),
        ("a+12345678+AQAA", "key of type 1, 2 bytes; expected Ed25519 (type 1 or 4), 32 bytes"),
    ],
)
def test_malformed_keys_are_refused(text: str, message: str) -> None:
    """A malformed key is refused, so that a typing mistake does not become another key."""
    with pytest.raises(KeyInvalid) as caught:
        VerifierKey.parse(text)

    assert caught.value.message == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VKEY, "not a private key: it does not begin with PRIVATE+KEY+"),
        ("PRIVATE+KEY+", "not a key; expected name+8 hex digits+base64, as `boltseal ledger key` prints it"),
        (SKEY.replace("ledger", "other"), 'private key of "reg.example/other": its ID does not belong to it'),
        ("PRIVATE+KEY+a+12345678+AQAA", "a seed of 2 bytes; expected 32"),
    ],
)
def test_malformed_private_keys_are_refused_without_showing_them(text: str, message: str) -> None:
    """A malformed private key is refused with a message that has no part of it."""
    with pytest.raises(KeyInvalid) as caught:
        SigningKey.parse(text)

    assert caught.value.message == message
