"""The module in the browser decides as boltseal does, on random ledgers whose proofs are damaged at random."""

from __future__ import annotations

import json
import os
import random
from base64 import b64encode
from collections.abc import Iterator, Mapping
from pathlib import Path
from subprocess import DEVNULL

import pytest
from playwright.sync_api import Browser, Page, Request, Route

from boltseal.commands.ledger_receipt import verify_receipt
from boltseal.commands.outcome import Outcome
from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import Entry, EntryKind, encode
from boltseal.ledger.merkle import inclusion_path, leaf_hash, prove
from boltseal.ledger.note import SigningKey, format_note
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.ledger.tiles import TileId, Tiles, grow, needed
from tests.boltseal_process import BoltsealProcess
from tests.browser.relay import relaying
from tests.ledger import tree_oracle

pytestmark = pytest.mark.real

STATIC = Path(__file__).parents[2] / "src/boltseal/server/web/static"
SEED = int(os.environ.get("TEST_SEED", "1"))
KEY = SigningKey("reg.example/ledger", b"k" * 32)
OTHER_KEY = SigningKey(KEY.name, b"o" * 32)
RECEIPTS = 400
REASONS = ("", "rebuild", 'says "hi"', "\u00e4\u4f60\U0001f680", "back\\slash", "tab\u00a0space")
SIZES = (1, 2, 3, 255, 256, 257, 300, 511, 512, 600, 65_536, 65_537, 66_000)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page into which the module is imported as `proof`. Its requests below /ledger/ are answered by tests."""
    with relaying("http://127.0.0.1:9") as relay:
        module = (STATIC / "proof.js").read_text(encoding="utf-8")
        relay.pages["/"] = (
            f'<!doctype html><script type="module">{module}\nwindow.proof = {{checkReceipt, checkEntry}};</script>'
        )
        opened = browser.new_page()
        opened.goto(relay.url)
        opened.wait_for_function("window.proof !== undefined")
        yield opened
        opened.close()


def entry(dice: random.Random, index: int) -> bytes:
    return encode(
        Entry(
            kind=dice.choice([EntryKind.TAG_CREATED, EntryKind.TAG_MOVED, EntryKind.TAG_SEALED, EntryKind.TAG_DELETED]),
            time_us=1_795_508_941_000_042 + index,
            registry=KEY.name,
            repository=dice.choice(["shop/app", "a/b__c/d-e"]),
            tag=f"1.4.{index}",
            digest="sha256:" + "ab" * 32,
            type="application/vnd.oci.image.manifest.v1+json",
            size=dice.randrange(2**40),
            previous=dice.randrange(-1, index + 1),
            actor="ci",
            reason=dice.choice(REASONS),
            salt=f"{index:032x}",
            extra=dice.choice([{}, {"mode": "sealed"}, {"keep": "365d", "mode": "sealed"}]),
        )
    )


def damaged(dice: random.Random, raw: bytes) -> bytes:
    """Return a receipt with one change, or none."""
    at = dice.randrange(len(raw))
    lines = raw.split(b"\n")
    line = dice.randrange(len(lines))
    match dice.randrange(9):
        case 0 | 1:
            return raw
        case 2:
            return raw[:at] + bytes([raw[at] ^ (1 << dice.randrange(8))]) + raw[at + 1 :]
        case 3:
            return raw[:at]
        case 4:
            return raw[:at] + dice.choice([b"\n", b" ", b"\r", b"=", b"A", b"\xc2\xa0", b"\n\n"]) + raw[at:]
        case 5:
            return b"\n".join(lines[:line] + lines[line + 1 :])
        case 6:
            return b"\n".join([*lines[:line], lines[line], *lines[line:]])
        case 7:
            other = dice.randrange(len(lines))
            lines[line], lines[other] = lines[other], lines[line]
            return b"\n".join(lines)
        case _:
            return raw + dice.choice([b"\n", b"x", raw])


def receipt(dice: random.Random) -> bytes:
    """Return a receipt of a random ledger, which may lie in a way that is well formed."""
    size = dice.randrange(1, 40)
    entries = [entry(dice, index) for index in range(size)]
    index = dice.randrange(size)
    root, line = tree_oracle.mth(entries), entries[index]
    lie = dice.randrange(8)
    if lie == 1:
        line = dice.choice(entries)
    elif lie == 2:
        line = _respelled(dice, line)
        entries[index] = line
        root = tree_oracle.mth(entries)
    elif lie == 3:
        root = bytes(32)
    path = tuple(tree_oracle.path(index, entries))
    key = OTHER_KEY if lie == 4 else KEY
    stated = size + 1 if lie == 5 else size
    origin = "other.example" if lie == 6 else KEY.name
    text = Checkpoint(origin, stated, root).text()
    note = format_note(text, [key.sign(text)])
    return damaged(dice, format_receipt(Receipt(index, path, note, line)))


def _respelled(dice: random.Random, line: bytes) -> bytes:
    """Return an entry in another spelling or with a value that no entry has, as only a dishonest registry logs it."""
    replacements = [
        (b'"v":1', b'"v": 1'),
        (b'"v":1', b'"v":1.0'),
        (b'"v":1', b'"v":true'),
        (b'"actor":"ci"', b'"actor":"\\u0063i"'),
        (b'"actor":"ci"', b'"actor":"c\xe2\x80\xaei"'),
        (b'"actor":"ci"', b'"actor":"\\ud800"'),
        (b'"actor":"ci"', b'"actor":"ci","actor":"ci"'),
        (b'"extra":{', b'"extra":{"z":"1",'),
        (b"2026-", b"2026-13-"),
        (b"2026-", b"1969-"),
        (b'"kind":"tag.', b'"kind":"tug.'),
        (b"shop/app", b"Shop/app"),
        (b'"tag":"1', b'"tag":".1'),
        (b"sha256:ab", b"sha256:AB"),
        (b"}\n", b"}"),
        (b"}\n", b',"new":""}\n'),
    ]
    return line.replace(*dice.choice(replacements))


def test_receipts_are_judged_alike(page: Page, tmp_path: Path) -> None:
    """For each damaged receipt the module says `holds` or `differs`, as `boltseal ledger receipt verify` does."""
    dice = random.Random(SEED)  # noqa: S311 - repeatable cases
    receipts = [receipt(dice) for _ in range(RECEIPTS)]
    key = str(KEY.verifier)
    results = page.evaluate(
        """async ([key, receipts]) => Promise.all(receipts.map((text) =>
             window.proof.checkReceipt(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), key)))""",
        [key, [b64encode(each).decode() for each in receipts]],
    )
    file, wrong = tmp_path / "one.tlog-proof", []
    for raw, result in zip(receipts, results, strict=True):
        file.write_bytes(raw)
        expected = "holds" if verify_receipt(file, KEY.verifier, []).outcome is Outcome.HOLDS else "differs"
        if result["outcome"] != expected:
            wrong.append((expected, result, raw))
    outcomes = [result["outcome"] for result in results]

    assert wrong == []
    assert min(outcomes.count("holds"), outcomes.count("differs")) > RECEIPTS / 20
    assert all(result["sentence"].endswith(".") and "\n" not in result["sentence"] for result in results)


def test_a_signed_checkpoint_of_another_ledger_differs(page: Page) -> None:
    """A checkpoint that names another ledger than its key, and an entry of that other ledger, are refused in this order."""
    line = entry(random.Random(SEED), 0)  # noqa: S311 - repeatable cases
    foreign = line.replace(KEY.name.encode(), b"other.example")
    sentences = []
    for origin, each in (("other.example", foreign), (KEY.name, foreign)):
        text = Checkpoint(origin, 1, leaf_hash(each)).text()
        raw = format_receipt(Receipt(0, (), format_note(text, [KEY.sign(text)]), each))
        result = page.evaluate(
            """([key, text]) => window.proof.checkReceipt(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), key)""",
            [str(KEY.verifier), b64encode(raw).decode()],
        )
        sentences.append((result["outcome"], result["sentence"].partition(" ledger ")[0]))

    assert sentences == [("differs", "the checkpoint is of the"), ("differs", "the entry is of the")]


@pytest.mark.parametrize("kind", ["tag.deleted", "tag.purged", "tag.expired", "held", "built"])
def test_an_entry_that_gives_the_tag_no_digest_differs(page: Page, kind: str) -> None:
    """A real entry with the expected repository, tag and digest proves nothing if it removes the tag, or changes none."""
    line, tiles = ledger(random.Random(SEED), 1, 0, kind)  # noqa: S311 - repeatable cases
    note = sign_checkpoint(Checkpoint(KEY.name, 1, Tiles(1, tiles).root()), KEY)
    served = {"checkpoint": note, "receipt/0": format_receipt(Receipt(0, (), note, line))}

    assert _check(page, served, 0, line)[0] == "differs"


def test_the_command_itself_agrees(page: Page, tmp_path: Path) -> None:
    """The exit codes of the command are 0 and 1 where the module says `holds` and `differs`."""
    dice = random.Random(SEED + 1)  # noqa: S311 - repeatable cases
    files = []
    for number in range(10):
        files.append(tmp_path / f"{number}.tlog-proof")
        files[-1].write_bytes(receipt(dice))
    options = ["--key", str(KEY.verifier), "--json"]
    commands = [
        BoltsealProcess(["ledger", "receipt", "verify", str(file), *options], stdout=DEVNULL, stderr=DEVNULL)
        for file in files
    ]
    codes = [command.wait() for command in commands]
    outcomes = page.evaluate(
        """async ([key, receipts]) => (await Promise.all(receipts.map((text) =>
             window.proof.checkReceipt(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), key)))).map((one) => one.outcome)""",
        [str(KEY.verifier), [b64encode(file.read_bytes()).decode() for file in files]],
    )

    assert codes == [0 if outcome == "holds" else 1 for outcome in outcomes]


def ledger(
    dice: random.Random, size: int, index: int, kind: str = "tag.created"
) -> tuple[bytes, Mapping[TileId, bytes]]:
    """Return an entry, and the tiles of a ledger of `size` entries that has it at `index`; the others are random hashes."""
    row = json.loads(entry(dice, index))
    line = json.dumps(row | {"kind": kind}, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    leaves = [dice.randbytes(32) for _ in range(size)]
    leaves[index] = leaf_hash(line)
    return line, grow(0, {}, leaves).tiles


@pytest.mark.parametrize("size", SIZES)
def test_tiles_lead_to_the_same_root(page: Page, size: int) -> None:
    """The tiles of a ledger of any size prove its entries; no tile may differ, and those are fetched that boltseal needs."""
    dice = random.Random(SEED + size)  # noqa: S311 - repeatable cases
    index = dice.choice([0, size - 1, dice.randrange(size)])
    line, tiles = ledger(dice, size, index)
    root = Tiles(size, tiles).root()
    path = inclusion_path(index, size)
    proof = prove(path, Tiles(size, tiles).node)
    note = sign_checkpoint(Checkpoint(KEY.name, size, root), KEY)
    served = {tile.path(): data for tile, data in tiles.items()}
    served |= {"checkpoint": note, f"receipt/{index}": format_receipt(Receipt(index, proof, note, line))}
    wanted = sorted(tile.path() for tile in needed(path, size))
    right, asked = _check(page, served, index, line)
    wrong = []
    for name in wanted:
        forged = {**served, name: bytes(byte ^ 1 for byte in served[name])}
        wrong.append(_check(page, forged, index, line)[0])

    assert right == "holds"
    assert sorted(name for name in asked if name.startswith("tile/")) == wanted
    assert wrong == ["differs"] * len(wanted)


def _check(page: Page, served: Mapping[str, bytes], index: int, line: bytes) -> tuple[str, list[str]]:
    """Check an entry over the served paths. Return the outcome, and the paths that were asked for."""
    asked: list[str] = []

    def answer(route: Route, request: Request) -> None:
        name = request.url.partition("/ledger/")[2]
        asked.append(name)
        route.fulfill(status=200 if name in served else 404, body=served.get(name, b""))

    page.route("**/ledger/**", answer)
    row = json.loads(line)
    expected = {name: row[name] for name in ("repository", "tag", "digest")}
    result = page.evaluate(
        """async ([key, index, expected]) =>
             window.proof.checkEntry({ledger: new URL("/ledger/", location.href), key, index, expected})""",
        [str(KEY.verifier), index, expected],
    )
    page.unroute("**/ledger/**")
    return result["outcome"], asked
