"""verify.html, opened from disk, checks proofs of a registry with a key that a person gives."""

from __future__ import annotations

import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, Page

from boltseal.ledger.note import SigningKey
from boltseal.ledger.proof import Receipt, format_receipt, parse_receipt_unverified
from tests.browser.proven_registry import PRIVATE, PUBLIC, ProvenRegistry, proven_registry
from tests.browser.relay import Lie, Relay, relaying

pytestmark = pytest.mark.real

PAGE = Path(__file__).parents[2] / "src/boltseal/server/web/static/verify.html"
TAG = "1.4.2"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProvenRegistry]:
    with proven_registry(tmp_path_factory.mktemp("proven") / "data") as running:
        yield running


@pytest.fixture
def relay(registry: ProvenRegistry) -> Iterator[Relay]:
    with relaying(registry.url) as running:
        yield running


@pytest.fixture
def page(browser: Browser, tmp_path: Path) -> Iterator[Page]:
    """The page from disk. At the end nothing was written to its console but requests that failed."""
    shutil.copy(PAGE, tmp_path / "verify.html")
    opened = browser.new_page()
    written: list[str] = []
    opened.on("console", lambda message: written.append(message.text))
    opened.on("pageerror", lambda error: written.append(str(error)))
    opened.goto(f"file://{tmp_path}/verify.html")
    yield opened
    opened.close()
    expected = ("Failed to load resource", "Access to fetch at")
    assert [text for text in written if not text.startswith(expected)] == []


def values_of(registry: ProvenRegistry, repository: str = PUBLIC, tag: str = TAG) -> dict[str, str]:
    """Return what a person types who has a right key and expects the truth."""
    index = registry.index_of(repository, tag)
    entry = registry.entries[index]
    return {
        "key": registry.key,
        "repository": repository,
        "tag": tag,
        "digest": entry.digest,
        "registry": registry.url,
        "entry": str(index),
    }


def check(page: Page, values: Mapping[str, str], receipt: bytes | None = None) -> tuple[str, str]:
    """Fill in the form and send it. Return the outcome and what the page says."""
    for name, value in values.items():
        page.fill(f"#{name}", value)
    if receipt is not None:
        page.set_input_files("#receipt", {"name": "app.tlog-proof", "mimeType": "text/plain", "buffer": receipt})
    page.click("button")
    return result_of(page)


def result_of(page: Page) -> tuple[str, str]:
    page.wait_for_selector("#result[data-outcome]", timeout=30_000)
    return page.get_attribute("#result", "data-outcome") or "", page.inner_text("#result")


def test_a_tag_holds(page: Page, registry: ProvenRegistry) -> None:
    """An honest registry gets the outcome `holds`, with the entry, its time, and what it proves."""
    outcome, text = check(page, values_of(registry))

    assert outcome == "holds", text
    assert text.startswith("Holds: Entry ")
    assert f"{PUBLIC}:{TAG}" in text
    assert "no later entry can give it another digest" in text


def test_a_receipt_holds_without_any_request(page: Page, registry: ProvenRegistry) -> None:
    """A receipt is checked offline, also one of a repository that needs a login."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    values = values_of(registry, PRIVATE)
    outcome, text = check(page, {**values, "registry": "", "entry": ""}, registry.receipt(int(values["entry"])))

    assert outcome == "holds", text
    assert asked == []


def test_a_receipt_is_compared_with_the_ledger_of_now(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """With a receipt and an address, the entry comes from the file, and checkpoint and tiles from the registry."""
    values = values_of(registry, PRIVATE)
    outcome, text = check(page, {**values, "registry": relay.url, "entry": ""}, registry.receipt(int(values["entry"])))

    assert outcome == "holds", text
    assert "/ledger/checkpoint" in relay.asked
    assert any(path.startswith("/ledger/tile/0/") for path in relay.asked)
    assert not any("receipt" in path for path in relay.asked)


def test_a_registry_without_public_receipt_cannot_be_checked(page: Page, registry: ProvenRegistry) -> None:
    """The receipt of a repository that needs a login is not shown, and that is not a success."""
    outcome, text = check(page, values_of(registry, PRIVATE))

    assert outcome == "unknown"
    assert text.startswith("Could not check: ")


@pytest.mark.parametrize("field", ["repository", "tag", "digest"])
def test_another_row_than_expected_differs(page: Page, registry: ProvenRegistry, field: str) -> None:
    """An entry in the ledger that is about another repository, tag or digest is no proof of what was typed."""
    other = {"repository": PRIVATE, "tag": "1.4.3", "digest": "sha256:" + "0" * 64}[field]
    outcome, text = check(page, {**values_of(registry), field: other})

    assert outcome == "differs"
    assert f"the entry has the {field}" in text


def test_another_key_differs(page: Page, registry: ProvenRegistry) -> None:
    """A ledger that the given key did not sign proves nothing, even under the same name."""
    name = registry.key.partition("+")[0]
    outcome, text = check(page, {**values_of(registry), "key": str(SigningKey(name, b"a" * 32).verifier)})

    assert outcome == "differs"
    assert "the given key did not sign the checkpoint" in text


def _other_root(body: bytes) -> bytes:
    lines = body.split(b"\n")
    lines[2] = b64encode(bytes(32))
    return b"\n".join(lines)


def _larger(body: bytes) -> bytes:
    lines = body.split(b"\n")
    lines[1] = b"%d" % (int(lines[1]) + 1)
    return b"\n".join(lines)


def _other_signature(body: bytes) -> bytes:
    head, _, tail = body.rstrip(b"\n").rpartition(b" ")
    value = bytearray(b64decode(tail))
    value[-5] ^= 1
    return head + b" " + b64encode(bytes(value)) + b"\n"


def _signed_by_another_key(body: bytes) -> bytes:
    text = body.partition(b"\n\n")[0].decode() + "\n"
    key = SigningKey(text.partition("\n")[0], b"b" * 32)
    return (text + "\n" + key.sign(text).line()).encode()


CHECKPOINT_LIES: Mapping[str, Lie] = {
    "other root": _other_root,
    "larger": _larger,
    "other signature": _other_signature,
    "signed by another key": _signed_by_another_key,
    "truncated in the root": lambda body: body[:60],
    "truncated in the signature": lambda body: body[:-9],
    "without its last newline": lambda body: body[:-1],
    "empty": lambda body: b"",
    "a page of a proxy": lambda body: b"<!doctype html><p>Log in</p>\n",
    "not UTF-8": lambda body: b"\xff" + body,
}


@pytest.mark.parametrize("lie", CHECKPOINT_LIES.values(), ids=CHECKPOINT_LIES.keys())
def test_a_forged_checkpoint_differs(page: Page, registry: ProvenRegistry, relay: Relay, lie: Lie) -> None:
    """A checkpoint that is not exactly what the key signed gives `differs`, and one sentence."""
    relay.lies["/ledger/checkpoint"] = lie
    outcome, text = check(page, {**values_of(registry), "registry": relay.url})

    assert outcome == "differs"
    assert text.endswith(".")
    assert "\n" not in text


TILE_LIES: Mapping[str, Callable[[bytes, int], bytes]] = {
    "sibling": lambda body, at: _with_other_hash(body, at ^ 1),
    "far": lambda body, at: _with_other_hash(body, 0 if at > 3 else len(body) // 32 - 1),
    "short": lambda body, at: body[:-1],
    "empty": lambda body, at: b"",
    "other order": lambda body, at: body[32:] + body[:32],
}


def _instead(shown: bytes, _: bytes) -> bytes:
    return shown


def _with_other_hash(body: bytes, at: int) -> bytes:
    return body[: at * 32] + bytes(32) + body[at * 32 + 32 :]


@pytest.mark.parametrize("name", TILE_LIES)
def test_a_forged_tile_differs(page: Page, registry: ProvenRegistry, relay: Relay, name: str) -> None:
    """A tile with another hash, other order or other length does not lead to the signed root."""
    values, size = values_of(registry), len(registry.entries)
    lie = TILE_LIES[name]
    relay.lies[f"/ledger/tile/0/000.p/{size}"] = lambda body: lie(body, int(values["entry"]))
    outcome, text = check(page, {**values, "registry": relay.url})

    assert outcome == "differs", text


def test_a_longer_tile_is_not_read(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """A tile that is longer than its width says ends the check."""
    relay.lies[f"/ledger/tile/0/000.p/{len(registry.entries)}"] = lambda body: body + b"x"
    outcome, text = check(page, {**values_of(registry), "registry": relay.url})

    assert outcome == "unknown"
    assert "longer than" in text


def test_a_swapped_row_differs(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """A real entry of another tag, shown under the number of this one, is refused, whatever index it claims."""
    values = values_of(registry)
    index, other = int(values["entry"]), registry.index_of(PUBLIC, "1.4.3")
    swapped = parse_receipt_unverified(registry.receipt(other))
    relabelled = format_receipt(Receipt(index, swapped.proof, swapped.checkpoint, swapped.extra))
    outcomes = []
    for shown in (registry.receipt(other), relabelled):
        relay.lies[f"/ledger/receipt/{index}"] = partial(_instead, shown)
        outcomes.append(check(page, {**values, "registry": relay.url})[0])
        page.reload()

    assert outcomes == ["differs", "differs"]


def test_an_entry_with_another_digest_differs(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """An entry that was rewritten to say what is expected is not the one that the ledger has."""
    values = values_of(registry)
    index, digest = int(values["entry"]), "sha256:" + "d" * 64
    receipt = parse_receipt_unverified(registry.receipt(index))
    line = (receipt.extra or b"").replace(values["digest"].encode(), digest.encode())
    forged = format_receipt(Receipt(index, receipt.proof, receipt.checkpoint, line))
    relay.lies[f"/ledger/receipt/{index}"] = lambda _: forged
    online = check(page, {**values, "registry": relay.url, "digest": digest})
    page.reload()
    offline = check(page, {**values, "registry": "", "digest": digest}, forged)

    assert online[0] == offline[0] == "differs"
    assert "do not lead from entry" in online[1]


@pytest.mark.parametrize("part", ["checkpoint", "receipt/{index}", "tile/0/000.p/{size}"])
def test_an_endless_answer_is_not_read(page: Page, registry: ProvenRegistry, relay: Relay, part: str) -> None:
    """An answer without end is given up after its limit: not read to the memory's end, and not taken for a success."""
    values = values_of(registry)
    relay.endless.add("/ledger/" + part.format(index=values["entry"], size=len(registry.entries)))
    outcome, text = check(page, {**values, "registry": relay.url})

    assert outcome == "unknown"
    assert "longer than" in text
    assert relay.sent_bytes < 64 * 2**20


@pytest.mark.parametrize("part", ["checkpoint", "receipt/{index}", "tile/0/000.p/{size}"])
def test_a_registry_that_does_not_answer_is_given_up(
    page: Page, registry: ProvenRegistry, relay: Relay, part: str
) -> None:
    """After fifteen seconds without an answer, which the browser's clock is set to, the check ends."""
    values = values_of(registry)
    silent = "/ledger/" + part.format(index=values["entry"], size=len(registry.entries))
    relay.silent.add(silent)
    page.clock.install()
    page.reload()
    for name, value in {**values, "registry": relay.url}.items():
        page.fill(f"#{name}", value)
    page.click("button")
    while silent not in relay.asked:
        page.wait_for_timeout(20)
    page.clock.fast_forward(16_000)
    outcome, text = result_of(page)

    assert outcome == "unknown"
    assert "did not answer in time" in text


def test_a_registry_that_is_not_there_cannot_be_checked(page: Page, registry: ProvenRegistry, relay: Relay) -> None:
    """No server listens at the address: could not check."""
    outcome, text = check(page, {**values_of(registry), "registry": "http://127.0.0.1:9"})

    assert outcome == "unknown"
    assert text.startswith("Could not check: ")


def test_an_entry_that_is_not_signed_yet_cannot_be_checked(page: Page, registry: ProvenRegistry) -> None:
    """An entry after the checkpoint is neither proven nor refuted."""
    outcome, text = check(page, {**values_of(registry), "entry": str(len(registry.entries))})

    assert outcome == "unknown"
    assert "not in the signed ledger" in text


@pytest.mark.parametrize("key", ["reg", "reg.example+12345678+AAAA", "reg.example+00000000+" + "A" * 44])
def test_a_damaged_key_cannot_check(page: Page, registry: ProvenRegistry, key: str) -> None:
    """A key that was copied wrongly says nothing about the registry."""
    outcome, text = check(page, {**values_of(registry), "key": key})

    assert outcome == "unknown"
    assert "the key is" in text


NO_ED25519 = """
SubtleCrypto.prototype.importKey = function () {
  return Promise.reject(new DOMException("Unrecognized name.", "NotSupportedError"));
};
"""
NO_CRYPTOGRAPHY = "Object.defineProperty(Crypto.prototype, 'subtle', {value: undefined});"


@pytest.mark.parametrize(("script", "reason"), [(NO_ED25519, "Ed25519"), (NO_CRYPTOGRAPHY, "cryptography")])
def test_an_old_browser_cannot_check(page: Page, registry: ProvenRegistry, script: str, reason: str) -> None:
    """A browser without Ed25519 or without WebCrypto says so."""
    page.add_init_script(script)
    page.reload()
    outcome, text = check(page, values_of(registry))

    assert outcome == "unknown"
    assert reason in text


def test_without_javascript_the_page_says_so(browser: Browser, tmp_path: Path) -> None:
    """Without JavaScript the page names the command, and shows no outcome."""
    shutil.copy(PAGE, tmp_path / "verify.html")
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"file://{tmp_path}/verify.html")
        text = page.inner_text("main")

    assert "Could not check" in text
    assert "boltseal ledger receipt verify" in text


def test_only_public_reads_of_the_ledger_allow_other_origins(registry: ProvenRegistry) -> None:
    """Pages of other origins may read checkpoint, hashes and receipts of public repositories, and nothing else."""
    public, private = registry.index_of(PUBLIC, TAG), registry.index_of(PRIVATE, TAG)
    size, boss = len(registry.entries), ("boss", "pw-boss")
    open_paths = ["checkpoint", "rotations", f"tile/0/000.p/{size}", f"receipt/{public}"]
    closed_paths = [f"/ledger/receipt/{private}", f"/ledger/tile/entries/000.p/{size}", "/v2/", "/ui/account"]
    origin = {"origin": "null"}
    opened = [httpx2.get(f"{registry.url}/ledger/{path}", headers=origin) for path in open_paths]
    closed = [httpx2.get(f"{registry.url}{path}", headers=origin, auth=boss) for path in closed_paths]
    asked = httpx2.options(f"{registry.url}/ledger/checkpoint", headers=origin)

    assert [answer.headers.get("access-control-allow-origin") for answer in opened] == ["*"] * len(opened)
    assert not [answer.url for answer in closed if "access-control-allow-origin" in answer.headers]
    assert asked.status_code == 405
    assert not [each.url for each in (*opened, *closed, asked) if "access-control-allow-credentials" in each.headers]
