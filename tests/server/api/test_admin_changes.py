"""Changes by the admin API: seal, unseal, restore and purge, with their conditions, dry runs and ledger entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2

from boltseal.server.settings import Settings
from tests.admin_requests import GRANTS, ONE, TWO, as_user, filled, get, items_of, post, until_signed
from tests.images import holds_blob, image, meaning, push
from tests.serving import serving_as

SHOP = "shop/app"


async def state(client: httpx2.AsyncClient, tag: str) -> dict[str, Any]:
    found: dict[str, Any] = (await get(client, "tag", "boss", repository=SHOP, tag=tag)).json()["tag"]
    return found


async def last_entry(client: httpx2.AsyncClient, tag: str) -> dict[str, Any]:
    await until_signed(client)
    return (await items_of(client, "history", "boss", repository=SHOP, tag=tag))[0]


async def test_a_seal_is_recorded_with_the_name_and_the_reason(data: Path) -> None:
    """Sealing a tag keeps it for ever; a second request changes nothing and names the same entry."""
    async with filled(data) as registry:
        client = registry.client
        done = await post(client, "seal", "lead", repository=SHOP, tag="latest", reason=" shown to the auditor ")
        again = await post(client, "seal", "lead", repository=SHOP, tag="latest", reason="again")
        entry, after = await last_entry(client, "latest"), await state(client, "latest")

    assert (done.status_code, done.json()["digest"], done.json()["changed"]) == (200, TWO.digest, True)
    assert (again.json()["changed"], again.json()["entry"]) == (False, done.json()["entry"])
    assert (entry["kind"], entry["actor"], entry["reason"]) == ("tag.sealed", "lead", "shown to the auditor")
    assert (entry["index"], after["mode"], after["keep"]) == (done.json()["entry"], "sealed", "forever")


async def test_unsealing_lifts_only_the_protection(data: Path) -> None:
    """An unsealed tag may be deleted and still cannot move; a mutable tag cannot be unsealed."""
    async with filled(data) as registry:
        client = registry.client
        done = await post(client, "unseal", "lead", repository=SHOP, tag="1.4.2", reason="a mistake")
        mutable = await post(client, "unseal", "lead", repository=SHOP, tag="latest", reason="a mistake")
        client.auth = as_user("lead")
        moved = await push(client, SHOP, "1.4.2", TWO)
        entry = await last_entry(client, "1.4.2")

    assert (done.status_code, done.json()["changed"]) == (200, True)
    assert (mutable.status_code, "never sealed" in mutable.text) == (400, True)
    assert moved.status_code == 409
    assert (entry["kind"], entry["actor"], entry["reason"]) == ("tag.unsealed", "lead", "a mistake")


async def test_a_tag_is_moved_back_to_what_it_was(data: Path) -> None:
    """A mutable tag is restored by digest, index or time; a sealed tag never is."""
    async with filled(data) as registry:
        client = registry.client
        created = (await items_of(client, "history", "boss", repository=SHOP, tag="latest"))[-1]
        done = await post(client, "restore", "lead", repository=SHOP, tag="latest", to=ONE.digest[:19], reason="broken")
        entry = await last_entry(client, "latest")
        by_index = await post(
            client, "restore", "lead", repository=SHOP, tag="latest", to=str(created["index"]), reason="broken"
        )
        never = await post(
            client, "restore", "lead", repository=SHOP, tag="latest", to="sha256:" + "0" * 64, reason="x"
        )

    assert (done.status_code, done.json()["digest"], done.json()["was"]) == (200, ONE.digest, TWO.digest)
    assert (entry["kind"], entry["actor"], entry["reason"]) == ("tag.restored", "lead", "broken")
    assert (by_index.status_code, by_index.json()["changed"]) == (200, False)
    assert never.status_code == 404


async def test_a_dry_run_says_what_would_happen_and_changes_nothing(data: Path) -> None:
    """The answer of a dry run has the digest after the change, and no entry; tag and ledger stay as they were."""
    changes: list[tuple[str, str, dict[str, str]]] = [
        ("restore", "latest", {"to": ONE.digest}),
        ("seal", "latest", {}),
        ("unseal", "1.4.2", {}),
    ]
    async with filled(data) as registry:
        client = registry.client
        for name, tag, more in changes:
            before, ledger = await state(client, tag), (await items_of(client, "ledger", "boss"))[0]["size"]
            dry = await post(client, name, "lead", repository=SHOP, tag=tag, reason="a test", dry_run=True, **more)
            after, ledger_after = await state(client, tag), (await items_of(client, "ledger", "boss"))[0]["size"]
            real = await post(client, name, "lead", repository=SHOP, tag=tag, reason="a test", **more)

            assert (dry.status_code, dry.json()["changed"], dry.json()["entry"]) == (200, True, None)
            assert (before, ledger) == (after, ledger_after)
            assert {**dry.json(), "entry": ledger, "dry_run": False} == real.json()


async def test_a_condition_is_checked_before_the_change(data: Path) -> None:
    """With If-Match a change is refused if the tag has moved meanwhile, also in a dry run."""
    async with filled(data) as registry:
        client = registry.client
        for name, tag, now, other in (
            ("restore", "latest", TWO, ONE),
            ("seal", "latest", ONE, TWO),
            ("unseal", "1.4.2", ONE, TWO),
        ):
            fields: dict[str, Any] = {"repository": SHOP, "tag": tag, "reason": "a test"}
            fields |= {"to": ONE.digest} if name == "restore" else {}
            before = await state(client, tag)
            stale = await post(client, name, "lead", if_match=f'"{other.digest}"', **fields)
            dry = await post(client, name, "lead", if_match=f'"{other.digest}"', dry_run=True, **fields)
            unread = await post(client, name, "lead", if_match='"', **fields)
            unchanged = await state(client, tag)
            done = await post(client, name, "lead", if_match=f'"{now.digest}"', **fields)

            assert [answer.status_code for answer in (stale, dry, unread, done)] == [412, 412, 400, 200]
            assert stale.json()["errors"][0]["detail"]["reason"] == "precondition"
            assert before == unchanged


async def test_a_purge_deletes_only_what_its_plan_had(data: Path) -> None:
    """A purge needs the plan of a dry run, and is refused once another tag would go with the image."""
    layer = ONE.layers[0].digest
    fields: dict[str, Any] = {"repository": SHOP, "reference": "1.4.2", "reason": "has a key"}
    async with filled(data) as registry:
        client = registry.client
        dry = await post(client, "purge", "lead", dry_run=True, **fields)
        client.auth = as_user("lead")
        unchanged = await meaning(client, SHOP, "1.4.2")
        await push(client, SHOP, "1.4.3", ONE)
        refused = await post(client, "purge", "lead", plan=dry.json()["plan"], **fields)
        newer = await post(client, "purge", "lead", dry_run=True, **fields)
        done = await post(client, "purge", "lead", plan=newer.json()["plan"], **fields)
        gone = await meaning(client, SHOP, "1.4.2")
        entry = await last_entry(client, "1.4.2")
        left = await holds_blob(client, SHOP, layer)
        again = await push(client, SHOP, "1.4.2", TWO)

    assert (dry.status_code, dry.json()["tags"], dry.json()["dry_run"]) == (200, ["1.4.2"], True)
    assert unchanged == ONE.digest
    assert refused.status_code == 412
    assert (done.status_code, done.json()["tags"]) == (200, ["1.4.2", "1.4.3"])
    assert (gone, left) == (None, False)
    assert (entry["kind"], entry["actor"], entry["reason"]) == ("tag.purged", "lead", "has a key")
    assert again.status_code == 409


async def test_a_purge_is_refused_if_other_parts_would_go(data: Path) -> None:
    """An image that shares the blobs, pushed after the dry run, keeps them: what was confirmed is not what would be deleted."""
    fields: dict[str, Any] = {"repository": SHOP, "reference": "1.4.2", "reason": "has a key"}
    async with filled(data) as registry:
        client = registry.client
        dry = await post(client, "purge", "lead", dry_run=True, **fields)
        client.auth = as_user("lead")
        await push(client, SHOP, "2.0.0", image("one", annotations={"a": "b"}))
        refused = await post(client, "purge", "lead", plan=dry.json()["plan"], **fields)
        newer = await post(client, "purge", "lead", dry_run=True, **fields)
        done = await post(client, "purge", "lead", plan=newer.json()["plan"], **fields)

    assert (refused.status_code, "other parts" in refused.text) == (412, True)
    assert len(newer.json()["blobs"]) < len(dry.json()["blobs"])
    assert (done.status_code, done.json()["blobs"]) == (200, newer.json()["blobs"])


async def test_a_reason_is_required(data: Path) -> None:
    """A change without a reason, or with an empty one, is refused as the command refuses it."""
    async with filled(data) as registry:
        for name in ("seal", "unseal", "restore", "purge"):
            fields: dict[str, Any] = {"repository": SHOP, "tag": "latest"}
            fields |= {"to": ONE.digest} if name == "restore" else {}
            if name == "purge":
                fields = {"repository": SHOP, "reference": "1.4.2", "dry_run": True}
            missing = await post(registry.client, name, "boss", **fields)
            empty = await post(registry.client, name, "boss", reason="  ", **fields)

            assert (missing.status_code, "reason" in missing.text) == (400, True)
            assert (empty.status_code, '"reason is empty' in empty.text) == (400, True)


async def test_a_read_only_registry_refuses_changes_and_answers_plans(data: Path) -> None:
    """With `read_only` a change is a 405 with the reason read-only; reads and plans of rules are answered."""
    async with filled(data):
        pass
    settings = Settings.model_validate({"server": {"data": data, "read_only": True}, "auth": {"grant": GRANTS}})
    async with serving_as(settings) as registry:
        change = await post(registry.client, "seal", "boss", repository=SHOP, tag="latest", reason="a test")
        read = await get(registry.client, "tags", "boss", repository=SHOP)
        plan = await post(registry.client, "rules/plan", "boss", rules=[])

    assert (change.status_code, change.json()["errors"][0]["detail"]["reason"]) == (405, "read-only")
    assert (read.status_code, plan.status_code) == (200, 200)
