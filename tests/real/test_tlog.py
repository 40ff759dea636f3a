"""The ledger, verified by the unmodified Go code behind Go's checksum database, instead of boltseal's own."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import Entry, EntryKind, encode
from boltseal.ledger.merkle import EMPTY_ROOT, inclusion_path, leaf_hash, prove
from boltseal.ledger.note import SigningKey
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.ledger.tiles import WIDTH, BundleId, Grown, TileId, Tiles, edge, encode_bundle, grow, needed
from tests import images
from tests.cli.program import run as program_run
from tests.go_programs import build_go
from tests.polling import is_signed, wait_until
from tests.servers import boltseal

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
KEY = SigningKey("reg.example/ledger", bytes(range(32)))
SIZES = (1, 2, 255, 256, 257, 700)

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The checker, built offline from Debian's golang.org/x/mod."""
    built = build_go(HERE / "tlog" / "main.go", tmp_path_factory.mktemp("go") / "tlog")

    def check(*argv: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([built, *argv], capture_output=True, text=True, timeout=60)

    return check


def entry(index: int) -> bytes:
    return encode(
        Entry(
            kind=EntryKind.TAG_MOVED,
            time_us=1_795_508_941_000_042 + index,
            registry=KEY.name,
            repository="shop/app",
            tag="latest",
            digest=f"sha256:{index:064x}",
            previous=index - 1,
            salt=f"{index:032x}",
        )
    )


ENTRIES = [entry(index) for index in range(SIZES[-1])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Grown]:
    """A ledger of 700 entries as files, grown in steps, with the checkpoint of each step."""
    folder = tmp_path_factory.mktemp("ledger")
    tree, tiles = Grown(0, EMPTY_ROOT, {}, {}), dict[TileId, bytes]()
    (folder / "old").mkdir()
    for size in SIZES:
        tree = grow(tree.size, tree.edge, [leaf_hash(one) for one in ENTRIES[tree.size : size]])
        tiles |= tree.tiles
        signed = sign_checkpoint(Checkpoint(KEY.name, tree.size, tree.root), KEY)
        (folder / "old" / str(size)).write_bytes(signed)
        (folder / "checkpoint").write_bytes(signed)
    files = {tile.path(): data for tile, data in tiles.items()}
    for start in range(0, len(ENTRIES), WIDTH):
        held = ENTRIES[start : start + WIDTH]
        files[BundleId(start // WIDTH, len(held)).path()] = encode_bundle(held)
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    return folder, Grown(tree.size, tree.root, tiles, tree.edge)


@pytest.fixture
def ledger(whole: tuple[Path, Grown], tmp_path: Path) -> Path:
    """A copy of the ledger to forge."""
    return shutil.copytree(whole[0], tmp_path / "ledger")


def flip(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_entry_and_every_older_checkpoint_is_verified_by_go(check: Check, ledger: Path) -> None:
    """Go's note.Open, TileHashReader, ProveRecord, CheckRecord, ProveTree and CheckTree accept every entry and
    checkpoint."""
    result = check("verify", ledger, str(KEY.verifier))

    assert (result.returncode, result.stdout) == (0, "700 entries and 6 older checkpoints hold\n"), result.stderr


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/001"])
def test_go_finds_one_wrong_bit(check: Check, ledger: Path, path: str) -> None:
    """Go's code finds an altered bit in a tile or entry."""
    flip(ledger / path)
    result = check("verify", ledger, str(KEY.verifier))

    assert result.returncode == 1


def test_go_finds_a_fork(check: Check, ledger: Path) -> None:
    """Go's code refuses an older checkpoint that this ledger does not begin with."""
    forked = grow(0, {}, [leaf_hash(one) for one in [*ENTRIES[:254], b"lie"]])
    (ledger / "old" / "255").write_bytes(sign_checkpoint(Checkpoint(KEY.name, 255, forked.root), KEY))
    result = check("verify", ledger, str(KEY.verifier))

    assert result.returncode == 1
    assert "old/255" in result.stderr


def test_go_finds_another_key(check: Check, ledger: Path) -> None:
    """Go's code refuses a checkpoint signed by another key of the same name."""
    mallory = SigningKey(KEY.name, b"m" * 32)
    result = check("verify", ledger, str(mallory.verifier))

    assert result.returncode == 1
    assert "no verifiable signatures" in result.stderr


@pytest.mark.parametrize("index", [0, 255, 256, 699])
def test_a_receipt_is_verified_by_go(check: Check, whole: tuple[Path, Grown], tmp_path: Path, index: int) -> None:
    """Go's code verifies a receipt, and refuses one for another index."""
    folder, tree = whole
    path = inclusion_path(index, tree.size)
    held = {tile: tree.tiles[tile] for tile in needed(path, tree.size)}
    proof = prove(path, Tiles(tree.size, held).node)
    checkpoint = (folder / "checkpoint").read_bytes()
    (tmp_path / "good").write_bytes(format_receipt(Receipt(index, proof, checkpoint, ENTRIES[index])))
    (tmp_path / "bad").write_bytes(format_receipt(Receipt(index ^ 1, proof, checkpoint, ENTRIES[index])))
    good, bad = (check("receipt", tmp_path / name, str(KEY.verifier)) for name in ("good", "bad"))

    assert (good.returncode, good.stdout) == (0, f"entry {index} holds\n"), good.stderr
    assert bad.returncode == 1


def test_the_ledger_of_a_running_registry_is_verified_by_go(check: Check, tmp_path: Path) -> None:
    """Go's code verifies the files of /ledger/ and the receipt of a push, with the key that `ledger key` prints."""
    tree = tmp_path / "tree"
    (tree / "old").mkdir(parents=True)
    with boltseal(tmp_path / "data") as server, httpx2.Client(base_url=server.url) as client:
        pushed = asyncio.run(_push_many(server.url, 300))
        raw = _signed(client, pushed)
        size = int(raw.split(b"\n")[1])
        (tree / "checkpoint").write_bytes(raw)
        for at in [*_tiles(size), *_bundles(size)]:
            (tree / at).parent.mkdir(parents=True, exist_ok=True)
            (tree / at).write_bytes(client.get(f"/ledger/{at}").raise_for_status().content)
        (tmp_path / "receipt").write_bytes(client.get(f"/ledger/receipt/{size - 1}").raise_for_status().content)
        key = program_run("ledger", "key", "--data", tmp_path / "data").out.strip()
    result = check("verify", tree, key)
    receipt = check("receipt", tmp_path / "receipt", key)

    assert (result.returncode, result.stdout) == (0, f"{size} entries and 0 older checkpoints hold\n"), result.stderr
    assert (receipt.returncode, receipt.stdout) == (0, f"entry {size - 1} holds\n"), receipt.stderr


async def _push_many(url: str, count: int) -> int:
    """Push tags of one image, each an entry; return the least number of entries then."""
    one = images.image("many tags")
    async with httpx2.AsyncClient(base_url=url) as client:
        await images.push(client, "shop/app", "1.0.0", one)
        for start in range(1, count, 50):
            tags = "&".join(f"tag=1.0.{n}" for n in range(start, min(start + 50, count)))
            answer = await client.put(
                f"/v2/shop/app/manifests/{one.digest}?{tags}",
                content=one.raw,
                headers={"content-type": one.media_type},
            )
            answer.raise_for_status()
    return count


def _signed(client: httpx2.Client, size: int) -> bytes:
    wait_until(lambda: is_signed(client.get("/ledger/checkpoint"), size), f"{size} entries are signed")
    return client.get("/ledger/checkpoint").content


def _tiles(size: int) -> list[str]:
    full = [TileId(0, index).path() for index in range(size // WIDTH)]
    return full + [tile.path() for tile in edge(size)]


def _bundles(size: int) -> list[str]:
    widths = [WIDTH] * (size // WIDTH) + ([size % WIDTH] if size % WIDTH else [])
    return [BundleId(index, width).path() for index, width in enumerate(widths)]


def test_the_stored_vectors_are_what_go_writes_today(check: Check) -> None:
    """The stored test vectors equal what the Go program writes now."""
    stored = HERE.parent / "ledger" / "vectors" / "tlog.json"

    assert json.loads(check("vectors").stdout) == json.loads(stored.read_text())
