"""Records the images of a host in a signed baseline, and opens one to check against.

Only images that hold when they are recorded are part of it. The key is the user's. An attacker who has it decides what
holds, so it should not stay on the host that is checked.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TypeAlias

from msgspec import structs

from boltseal.commands.client_context import ClientContext
from boltseal.commands.scrub_baseline_options import BaselineOptions
from boltseal.commands.text import counted
from boltseal.engines.linked_folders import open_store
from boltseal.engines.safe_open import StoreMalformed, StoreMissing, StoreUnreadable
from boltseal.errors import Invalid, Unavailable, quote
from boltseal.host.scrub.baseline import (
    Baseline,
    BaselineUnusable,
    RecordedImage,
    open_baseline,
    write_baseline,
)
from boltseal.host.scrub.file_contents import ChangedWhileRead, FileReader
from boltseal.host.scrub.find_stores import FoundStore
from boltseal.host.scrub.inventory import inventory_of
from boltseal.host.scrub.layer_check import LayerFiles
from boltseal.host.scrub.layer_inventory import Inventory
from boltseal.host.scrub.report import ReportStatus, ScrubReport
from boltseal.host.scrub.scrub import ScrubRequest, scrub
from boltseal.host.scrub.trust import names_image
from boltseal.host.scrub.workers import Progress, meter_of
from boltseal.ledger.note import SigningKey, VerifierKey
from boltseal.oci.digest import Digest

MAX_KEY_BYTES = 1000
_Layer: TypeAlias = tuple[Digest, Inventory]


def opened_baseline(options: BaselineOptions) -> Baseline | None:
    """Return the baseline to check against, verified. Raises: BaselineUnusable, KeyInvalid."""
    if options.check is None or options.trusted_key is None:
        return None
    return open_baseline(options.check, VerifierKey.parse(options.trusted_key))


def record_baseline(
    stores: Sequence[FoundStore],
    wanted: ScrubRequest,
    options: BaselineOptions,
    client: ClientContext,
    progress: Progress,
) -> list[ScrubReport]:
    """Record images: 1. inventory their layers; 2. check them; 3. sign and write those that hold.

    The files of a layer that has others in another image of the same store, one of them changed, are not recorded: only an
    image whose store proves them by their digest holds then.

    Raises: BaselineUnusable, Invalid: the file exists, or two stores have other files of a layer; KeyInvalid.
    """
    assert options.write is not None  # noqa: S101 - the caller checks both
    assert options.signing_key is not None  # noqa: S101
    if os.path.lexists(options.write):
        raise Invalid(f"{quote(str(options.write), 200)[1:-1]} exists; write each baseline to a file of its own")
    key = _signing_key(options.signing_key, client)
    with TemporaryFile(prefix="boltseal-") as scratch:  # without a name: nothing remains after a kill
        images, inventories = _inventories(stores, wanted, scratch)  # 1
        every_layer = [layer for layers in inventories.values() for layer in layers]
        provisional = Baseline("this baseline", images, _without_conflicts(every_layer), provisional=True)
        reports = scrub(stores, replace(wanted, baseline=provisional), progress)  # 2
        holding = {
            each.id: str(each.level) for each in reports if each.what == "image" and each.status is ReportStatus.HOLDS
        }
        kept = tuple(structs.replace(each, level=holding[each.id]) for each in images if each.id in holding)
        if not kept:
            client.notice("no baseline was written: no image holds")
            return reports
        recorded = _without_conflicts([layer for each in kept for layer in inventories[each.id]])
        try:
            write_baseline(options.write, kept, recorded, key, host=os.uname().nodename, time_us=client.now_us())  # 3
        except FileExistsError as error:
            raise Invalid(f"{options.write} exists; write each baseline to a file of its own") from error
    left = len(images) - len(kept)
    client.notice(
        f"recorded {counted(len(kept), 'image')} in {options.write}{f', and not {left} that do not hold' if left else ''}; check with: "
        f"boltseal scrub --baseline {options.write} --trusted-key {key.verifier}"
    )
    return reports


def _inventories(
    stores: Sequence[FoundStore], wanted: ScrubRequest, scratch: IO[bytes]
) -> tuple[tuple[RecordedImage, ...], dict[str, list[_Layer]]]:
    """Inventory the unpacked layers of the selected images, each once; return them by image ID."""
    images: list[RecordedImage] = []
    found: dict[str, list[_Layer]] = {}
    first: dict[Digest, tuple[Path, Inventory]] = {}
    done: dict[LayerFiles, Inventory | None] = {}
    for store in stores:
        for image in store.plan(store.root).images:
            if wanted.images and not any(names_image(typed, image) for typed in wanted.images):
                continue
            images.append(RecordedImage(image.names, str(image.id), str(image.config)))
            layers = found.setdefault(str(image.id), [])
            for layer in image.layers:
                if layer.folder is None:
                    continue
                if layer not in done:
                    try:
                        done[layer] = _inventory(layer, scratch, wanted)
                    except (StoreMissing, StoreUnreadable, StoreMalformed, ChangedWhileRead):
                        done[layer] = None  # the check that follows reports it
                made = done[layer]
                if made is None:
                    continue
                root, other = first.setdefault(layer.diff_id, (store.root, made))
                if root != store.root and other.sha256 != made.sha256:
                    raise Invalid(
                        f"two stores have layer {layer.diff_id.short} with other files; name one store with --root"
                    )
                layers.append((layer.diff_id, made))
    return tuple(images), found


def _without_conflicts(layers: Iterable[_Layer]) -> dict[Digest, Inventory]:
    """Return the inventories by layer, without layers that have several."""
    found: dict[Digest, dict[str, Inventory]] = {}
    for diff_id, inventory in layers:
        found.setdefault(diff_id, {}).setdefault(inventory.sha256, inventory)
    return {diff_id: next(iter(each.values())) for diff_id, each in found.items() if len(each) == 1}


def _inventory(layer: LayerFiles, scratch: IO[bytes], wanted: ScrubRequest) -> Inventory:
    """Append the inventory of a layer to an open file, which other processes read through /proc."""
    assert layer.folder is not None  # noqa: S101 - the caller checks it
    running, at, size = sha256(), scratch.seek(0, os.SEEK_END), 0
    with open_store(layer.root) as store, store.below(layer.folder) as tree:
        tree.stay_in_mount()
        reader = FileReader(tree, meter_of(wanted.pace), from_disk=wanted.check_mode.from_disk)
        for line in inventory_of(tree, reader, layer.ownership):
            scratch.write(line)
            running.update(line)
            size += len(line)
    scratch.flush()
    return Inventory(Path(f"/proc/{os.getpid()}/fd/{scratch.fileno()}"), at, size, running.hexdigest())


def _signing_key(path: Path, client: ClientContext) -> SigningKey:
    """Return the key in a file; a new one if the file does not exist. Raises: KeyInvalid, Unavailable."""
    shown = quote(str(path), 200)[1:-1]
    try:
        with path.open("rb") as file:
            return SigningKey.parse(file.read(MAX_KEY_BYTES).decode("ascii", "replace").strip())
    except FileNotFoundError:
        key = SigningKey(f"{os.uname().nodename}/baseline", secrets.token_bytes(32))
    except OSError as error:
        raise Unavailable(f"key {shown} can't be read: {error.strerror}") from error
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:  # noqa: PTH123
            file.write(f"{key.private_text()}\n")
    except OSError as error:
        raise BaselineUnusable(f"key {shown} can't be written: {error.strerror}") from error
    client.notice(f"{shown} is a new key; keep it on another machine than those that are checked")
    return key
