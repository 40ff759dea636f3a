"""Layer chains: what shows that an image was built on another one, kept by digests only. Pure.

The ChainID of an image identifies all of its layers in their order (image-spec "config.md", "Layer ChainID"). An image
begins with the layers of another one exactly if the other one's ChainID is one of its own. So a chain of constant size
still proves a base after that image was deleted, and it reveals nothing that the image contained: no command, no
variable, no label.

A registry keeps a `ChainDocument` for each manifest that was ever pushed, as JSON. Clients read those of any registry, so
that numbers and texts have limits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from boltseal.oci.jsontext import decode

VERSION: Final = 1
"""Changes with every hash of `ImageChain`: chains of another version can't be compared."""
ASKED_AT_ONCE: Final = 50
"""Maximum number of digests in one request for chains."""
MAX_LAYERS: Final = 1000
MAX_STEPS: Final = 2000
MAX_IMAGES: Final = 100
"""Maximum numbers of layers and history lines of an image, and of images of an index."""
MAX_TEXT: Final = 300
"""Maximum length of a text in characters."""
_Text = Annotated[str, Meta(max_length=MAX_TEXT)]
_Layers = Annotated[int, Meta(ge=0, le=MAX_LAYERS)]
_Steps = Annotated[int, Meta(ge=0, le=MAX_STEPS)]


class ImageChain(msgspec.Struct, frozen=True, omit_defaults=True):
    """The chain of an image. `config`: its digest. `layers`, `steps`: the number of its layers and history lines.

    `history`, `settings`, `base_name`: hashes of its history, of what containers inherit, and of the label that names its
    base ("": it has none). `created`: as the config has it.
    """

    config: _Text
    os: _Text
    architecture: _Text
    variant: _Text
    layers: _Layers
    chain_id: _Text
    steps: _Steps
    history: _Text
    settings: _Text
    base_name: _Text = ""
    created: _Text = ""


class IndexedImage(msgspec.Struct, frozen=True, omit_defaults=True):
    """An image of an index, and its platform there; no platform if the index names none."""

    digest: _Text
    os: _Text = ""
    architecture: _Text = ""
    variant: _Text = ""
    has_platform: bool = True


class ChainDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is kept of a manifest: the chain of an image, or the images of an index; neither for other artifacts.

    `unreadable`: why nothing is known of it; "" if something is.
    """

    version: int = 0
    image: ImageChain | None = None
    images: Annotated[tuple[IndexedImage, ...], Meta(max_length=MAX_IMAGES)] | None = None
    unreadable: str = ""


def encode_chain(document: ChainDocument) -> str:
    """Return a document as JSON, with this version."""
    return msgspec.json.encode(msgspec.structs.replace(document, version=VERSION)).decode()


def parse_chain(text: str | bytes) -> ChainDocument:
    """Parse a document. Raises: msgspec.DecodeError, which is a ValueError."""
    return decode(text.encode() if isinstance(text, str) else text, ChainDocument)


def chain_ids(diff_ids: Iterable[str]) -> Iterator[str]:
    """Yield the ChainID of each prefix of an image's layers (image-spec "config.md", "Layer ChainID")."""
    chain = ""
    for diff_id in diff_ids:
        chain = diff_id if not chain else f"sha256:{sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
        yield chain
