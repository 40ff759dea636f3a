"""Ledger entries: one spelling for each, and no other is read."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boltseal.ledger.entry import MAX_ENTRY_BYTES, MAX_TIME_US, Entry, EntryInvalid, EntryKind, encode, parse
from boltseal.oci.reference import Repository, Tag

DIGEST = "sha256:" + "ab" * 32
SALT = "0123456789abcdef" * 2
LINE = (
    b'{"v":1,"kind":"tag.moved","time":"2026-11-24T08:29:01.000042Z","registry":"reg.example:5000",'
    b'"repository":"shop/app","tag":"latest","digest":"sha256:' + b"ab" * 32 + b'",'
    b'"type":"application/vnd.oci.image.manifest.v1+json","size":1234,"was":"sha512:' + b"cd" * 64 + b'",'
    b'"previous":7,"actor":"ci","reason":"say \\"why\\" \xc3\xa9","salt":"0123456789abcdef0123456789abcdef",'
    b'"extra":{"a":"1","b.c":"2"}}\n'
)
ENTRY = Entry(
    kind=EntryKind.TAG_MOVED,
    time_us=1_795_508_941_000_042,
    registry="reg.example:5000",
    repository=Repository("shop/app"),
    tag=Tag("latest"),
    digest=DIGEST,
    type="application/vnd.oci.image.manifest.v1+json",
    size=1234,
    was="sha512:" + "cd" * 64,
    previous=7,
    actor="ci",
    reason='say "why" é',
    salt=SALT,
    extra={"b.c": "2", "a": "1"},
)

texts = st.text(
    st.characters(
        exclude_categories=["Cs", "Cc"],
        exclude_characters="\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
    ),
    max_size=40,
)
digests = st.sampled_from(["", DIGEST, "sha512:" + "0" * 128])
entries = st.builds(
    Entry,
    kind=st.sampled_from(EntryKind),
    time_us=st.integers(0, MAX_TIME_US),
    registry=st.sampled_from(["localhost:5000", "reg.example/a"]),
    repository=st.sampled_from(["shop/app", "a", "x/y/z--1"]),
    tag=st.sampled_from(["1.4.2", "latest", "_"]),
    digest=digests,
    type=st.sampled_from(["", "application/vnd.oci.image.index.v1+json"]),
    size=st.integers(0, 2**63 - 1),
    was=digests,
    previous=st.integers(-1, 2**63 - 1),
    actor=texts,
    reason=texts,
    salt=st.binary(min_size=16, max_size=16).map(bytes.hex),
    extra=st.dictionaries(st.from_regex(r"[a-z][a-z0-9_.-]{0,6}", fullmatch=True), texts, max_size=3),
)


def changed(**values: object) -> Entry:
    return Entry(**{**{key: getattr(ENTRY, key) for key in ENTRY.__struct_fields__}, **values})


def test_the_bytes_of_an_entry_are_fixed() -> None:
    """The bytes of an entry are fixed: one changed byte in the format would break every existing log."""

    assert encode(ENTRY) == LINE


def test_every_entry_has_every_key() -> None:
    """Absent values are "", 0 and -1, so that every entry has the same keys in the same order."""
    raw = encode(Entry(kind=EntryKind.LOG_STARTED, time_us=0, registry="r", salt=SALT))

    assert raw == (
        b'{"v":1,"kind":"log.started","time":"1970-01-01T00:00:00.000000Z","registry":"r","repository":"","tag":"",'
        b'"digest":"","type":"","size":0,"was":"","previous":-1,"actor":"","reason":"",'
        b'"salt":"0123456789abcdef0123456789abcdef","extra":{}}\n'
    )


@given(entries)
def test_an_entry_survives_the_round_trip(entry: Entry) -> None:
    """An entry that is written and read again is equal, and has one spelling."""
    raw = encode(entry)

    assert parse(raw) == entry
    assert encode(parse(raw)) == raw


@given(entries)
def test_the_standard_library_agrees_on_the_spelling(entry: Entry) -> None:
    """Python's json module writes the same bytes for an entry as boltseal's encoder."""
    raw = encode(entry)

    assert json.dumps(json.loads(raw), ensure_ascii=False, separators=(",", ":")).encode() + b"\n" == raw


@given(entries, st.data())
def test_an_entry_with_one_changed_byte_has_other_values(entry: Entry, data: st.DataObject) -> None:
    """If an entry with one changed byte can be parsed, its values differ."""
    raw = bytearray(encode(entry))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255).filter(lambda byte: byte != raw[at]))
    try:
        other = parse(bytes(raw))
    except EntryInvalid:
        return

    assert other != entry
    assert encode(other) == raw


@given(st.binary(max_size=200))
def test_garbage_is_refused_as_invalid(raw: bytes) -> None:
    """Arbitrary bytes raise only EntryInvalid."""
    with pytest.raises(EntryInvalid):
        parse(raw)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"v":1', b'"v": 1'),
        (b'"v":1', b'"v":1.0'),
        (b'"v":1', b'"v":2'),
        (b'"kind":"tag.moved"', b'"kind":"tag.bent"'),
        (b'"kind":"tag.moved",', b""),
        (b'"size":1234', b'"size":1234,"size":1234'),
        (b'"size":1234', b'"size":"1234"'),
        (b'"size":1234', b'"size":-1'),
        (b'"size":1234', b'"size":9223372036854775808'),
        (b'"previous":7', b'"previous":-2'),
        (b'"previous":7', b'"previous":07'),
        (b'"actor":"ci"', b'"actor":"\\u0063i"'),
        (b'"actor":"ci"', b'"actor":"c\\ni"'),
        (b'"actor":"ci"', b'"actor":"\xff"'),
        (b'"actor":"ci"', b'"actor":"\\ud800"'),
        (b'"actor":"ci"', b'"actor":null'),
        (b'{"a":"1","b.c":"2"}', b'{"b.c":"2","a":"1"}'),
        (b'{"a":"1","b.c":"2"}', b'{"A":"1"}'),
        (b'{"a":"1","b.c":"2"}', b'{"a":1}'),
        (b'{"a":"1","b.c":"2"}}', b'{},"more":1}'),
        (b"}}\n", b"}}"),
        (b"}}\n", b"}}\n\n"),
        (b"}}\n", b"}}\n{}\n"),
        (b"000042Z", b"00004Z"),
        (b"000042Z", b"000042"),
        (b"000042Z", b"000042+00:00"),
        (b"2026-11-24T", b"2026-11-24 "),
        (b"2026-11-24T", b"2026-W48-2T"),
        (b"2026-11-24T", b"1926-11-24T"),
        (b"2026-11-24T", b"2026-02-30T"),
        (b"T08:29:01", b"T24:00:00"),
        (b'"tag":"latest"', b'"tag":".latest"'),
        (b'"tag":"latest"', b'"tag":""'),
        (b'"repository":"shop/app"', b'"repository":"Shop/app"'),
        (b'"repository":"shop/app"', b'"repository":""'),
        (b'"registry":"reg.example:5000"', b'"registry":""'),
        (b'"registry":"reg.example:5000"', b'"registry":"a b"'),
        (b"sha256:ab", b"sha256:AB"),
        (b"sha512:cd", b"md5:cd"),
        (b'"type":"', b'"type":" '),
        (b'"salt":"0123', b'"salt":"X123'),
    ],
)
def test_only_canonical_encodings_are_read(old: bytes, new: bytes) -> None:
    """An entry in another encoding is refused, since it would have another leaf hash for the same content."""
    assert LINE.count(old) == 1

    with pytest.raises(EntryInvalid):
        parse(LINE.replace(old, new))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"registry": "a+b"}, 'registry is "a+b"; expected printable ASCII without space and plus'),
        ({"repository": ""}, 'tag.moved of tag "latest" names no repository'),
        ({"tag": ""}, 'tag.moved of repository "shop/app" names no tag'),
        (
            {"kind": EntryKind.TAG_DELETED, "tag": "", "digest": ""},
            'tag.deleted of repository "shop/app" names no tag',
        ),
        ({"type": "a b"}, 'type is "a b"; expected a media type'),
        ({"size": -1}, "size is -1; expected bytes, 0 to 2^63-1"),
        ({"previous": -2}, "previous is -2; expected an index, or -1"),
        ({"salt": ""}, "salt: expected 32 lower-case hex digits"),
        ({"time_us": -1}, "time is -1 us; expected 1970 to 9999"),
        ({"time_us": MAX_TIME_US + 1}, "time is 253402300800000000 us; expected 1970 to 9999"),
        (
            {"reason": "a\u202eb"},
            'reason is "a\\u202eb"; control characters, line breaks and direction marks are not allowed',
        ),
        ({"extra": {"A": ""}}, 'extra has the key "A"; expected a-z, then a-z 0-9 _ . -, at most 64'),
        (
            {"was": "sha256:1"},
            'was: a sha256 digest has 64 lower-case hex digits after the colon; got 1 characters: "1"',
        ),
    ],
)
def test_an_unknown_field_is_refused_with_its_name(values: dict[str, object], message: str) -> None:
    """An entry with an unknown field is refused with the field's name before it is hashed."""
    with pytest.raises(EntryInvalid) as caught:
        encode(changed(**values))

    assert caught.value.message == message


def test_an_entry_may_be_as_long_as_a_bundle_allows() -> None:
    """An entry may be as long as the two-byte length of entry bundles allows."""
    space = MAX_ENTRY_BYTES - len(encode(changed(reason="")))
    longest = encode(changed(reason="x" * space))

    assert len(longest) == MAX_ENTRY_BYTES
    assert parse(longest).reason == "x" * space
    with pytest.raises(EntryInvalid, match="an entry of 65536 bytes"):
        encode(changed(reason="x" * (space + 1)))
    with pytest.raises(EntryInvalid, match="an entry of 65536 bytes"):
        parse(longest + b"\n")


@pytest.mark.parametrize("kind", [EntryKind.RELEASED, EntryKind.TAG_DELETED, EntryKind.TAG_PURGED])
def test_an_entry_about_a_digest_needs_no_tag(kind: EntryKind) -> None:
    """The deletion of a manifest by digest is an entry without a tag."""
    entry = Entry(kind=kind, time_us=1, registry="r", repository="shop/app", digest=DIGEST, salt=SALT)

    assert parse(encode(entry)) == entry
