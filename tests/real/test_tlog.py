"""The ledger, checked from outside: by the unmodified Go code that guards Go's checksum database, and not by ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from boltseal.ledger.checkpoint import Checkpoint, sign_checkpoint
from boltseal.ledger.entry import Entry, Kind, encode
from boltseal.ledger.merkle import EMPTY_ROOT, inclusion_path, leaf_hash, prove
from boltseal.ledger.note import SigningKey
from boltseal.ledger.proof import Receipt, format_receipt
from boltseal.ledger.tiles import WIDTH, BundleId, Grown, TileId, Tiles, encode_bundle, grow, needed
from tests.programs import program

pytestmark = pytest.mark.real

HERE = Path(__file__).parent
KEY = SigningKey("reg.example/ledger", bytes(range(32)))
SIZES = (1, 2, 255, 256, 257, 700)

Check = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Check:
    """The checker, built from Debian's golang.org/x/mod without a network."""
    folder = tmp_path_factory.mktemp("go")
    environment = os.environ | {
        "GO111MODULE": "off",
        "GOPATH": "/usr/share/gocode",
        "GOCACHE": str(folder / "cache"),
        "GOFLAGS": "",
        "GOTOOLCHAIN": "local",
    }
    built = folder / "tlog"
    subprocess.run([program("go"), "build", "-o", built, HERE / "tlog" / "main.go"], env=environment, check=True)

    def check(*argv: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run([built, *argv], capture_output=True, text=True, timeout=60)

    return check


def entry(index: int) -> bytes:
    return encode(
        Entry(
            kind=Kind.TAG_MOVED,
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
    """A copy to lie in."""
    return shutil.copytree(whole[0], tmp_path / "ledger")


def flip(path: Path, at: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_every_entry_and_every_older_checkpoint_is_verified_by_go(check: Check, ledger: Path) -> None:
    """note.Open, TileHashReader, ProveRecord, CheckRecord, ProveTree and CheckTree, as they come."""
    said = check("verify", ledger, str(KEY.verifier))

    assert (said.returncode, said.stdout) == (0, "700 entries and 6 older checkpoints hold\n"), said.stderr


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/002.p/188", "tile/1/000.p/2", "tile/entries/001"])
def test_go_sees_one_bit_that_is_wrong(check: Check, ledger: Path, path: str) -> None:
    """A check that can't fail shows nothing: an altered tile or entry is found."""
    flip(ledger / path)
    said = check("verify", ledger, str(KEY.verifier))

    assert said.returncode == 1


def test_go_sees_a_fork(check: Check, ledger: Path) -> None:
    """An older checkpoint that this ledger does not begin with."""
    forked = grow(0, {}, [leaf_hash(one) for one in [*ENTRIES[:254], b"lie"]])
    (ledger / "old" / "255").write_bytes(sign_checkpoint(Checkpoint(KEY.name, 255, forked.root), KEY))
    said = check("verify", ledger, str(KEY.verifier))

    assert said.returncode == 1
    assert "old/255" in said.stderr


def test_go_sees_another_key(check: Check, ledger: Path) -> None:
    """Signed by somebody of the same name."""
    mallory = SigningKey(KEY.name, b"m" * 32)
    said = check("verify", ledger, str(mallory.verifier))

    assert said.returncode == 1
    assert "no verifiable signatures" in said.stderr


@pytest.mark.parametrize("index", [0, 255, 256, 699])
def test_a_receipt_is_verified_by_go(check: Check, whole: tuple[Path, Grown], tmp_path: Path, index: int) -> None:
    """And one for another index is not."""
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


def test_the_stored_vectors_are_what_go_writes_today(check: Check) -> None:
    """Nobody edited them by hand."""
    stored = HERE.parent / "ledger" / "vectors" / "tlog.json"

    assert json.loads(check("vectors").stdout) == json.loads(stored.read_text())
