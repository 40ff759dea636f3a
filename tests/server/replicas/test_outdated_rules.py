"""Two servers of one registry, of which only one was started with the present rules."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from tests.images import error_of, image, meaning, push
from tests.replicas import Replicas
from tests.signatures.signers import Signer

pytestmark = [pytest.mark.real, pytest.mark.slow]


async def test_a_server_with_former_rules_gives_no_tag_to_an_unsigned_image(registry: Replicas, tmp_path: Path) -> None:
    """After another server has recorded that tags need a signature, the first refuses them with 503 until it has that rule too."""
    (tmp_path / "release.pub").write_bytes(Signer.on_p256().pem)
    require = f'[[rule]]\ntag = "[0-9]*"\nrequire = [{{ key = "{tmp_path / "release.pub"}" }}]\n'
    one = image("unsigned")
    with registry.serve("replica0") as former:
        async with httpx2.AsyncClient(base_url=former.url) as client:
            before = await push(client, "shop/app", "1.0.0", one)
            registry.config += require
            with registry.serve("replica1") as latter:
                answers = [await push(client, "shop/app", "1.0.1", one)]
                async with httpx2.AsyncClient(base_url=latter.url) as other:
                    answers.append(await push(other, "shop/app", "1.0.1", one))
                pulled = await meaning(client, "shop/app", "1.0.0")
    with registry.serve("replica0") as restarted:
        async with httpx2.AsyncClient(base_url=restarted.url) as client:
            answers.append(await push(client, "shop/app", "1.0.1", one))
            given = await meaning(client, "shop/app", "1.0.1")

    assert (before.status_code, pulled) == (201, one.digest)
    assert [(each.status_code, error_of(each)[0]) for each in answers] == [
        (503, "UNAVAILABLE"),
        (409, "DENIED"),
        (409, "DENIED"),
    ]
    assert "rules that the ledger recorded last" in error_of(answers[0])[1]
    assert given is None
