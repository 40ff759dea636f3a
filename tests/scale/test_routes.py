"""No request grows faster than n log n with tags, referrers, repositories, tags per manifest, platforms or entries.

Each case is measured at several sizes once, in one process. The table of all measurements is shown with `pytest -s`.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from boltseal.server.api.admin.application import AdminApi
from boltseal.server.api.admin.openapi import DOCUMENT
from boltseal.server.api.admin.routes import PREFIX as ADMIN_PREFIX
from boltseal.server.api.paths import ROUTES
from boltseal.server.app import Application
from tests.admin_requests import as_user, settings_with_users
from tests.scale.admin_cases import ADMIN_CASES
from tests.scale.growth import MAX_EXPONENT, Growth, least_seconds, table
from tests.scale.route_cases import CASES, Case, Target
from tests.serving import Serving, copy_of, serving, serving_as

pytestmark = pytest.mark.slow

TIMEOUT_S = 600.0
NOT_MEASURED: Mapping[str, str] = {}
"""Routes that need no measurement, with the reason."""


@pytest.fixture(scope="module")
def growths(stores: Mapping[int, Path], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Growth]:
    """The growth of every case, by name."""
    found = {case.name: Growth(case.name) for case in (*CASES, *ADMIN_CASES)}
    for size, data in stores.items():
        folder = tmp_path_factory.mktemp(f"routes-{size}")
        asyncio.run(_measure(copy_of(data, folder), size, found))
        shutil.rmtree(folder)
    sys.stdout.write(f"\n{table(found)}\n")
    return found


async def _measure(data: Path, size: int, found: Mapping[str, Growth]) -> None:
    async with serving(data, max_referrers_per_image=10 * size) as registry:
        registry.client.timeout = TIMEOUT_S
        target = Target(registry.client, size)
        for case in CASES:
            found[case.name].seconds[size] = await least_seconds(partial(case.act, target), case.runs)
    async with serving_as(settings_with_users(data)) as registry:
        registry.client.timeout, registry.client.auth = TIMEOUT_S, as_user("boss")
        target = Target(registry.client, size)
        for case in ADMIN_CASES:
            found[case.name].seconds[size] = await least_seconds(partial(case.act, target), case.runs)


@pytest.mark.parametrize("case", [*CASES, *ADMIN_CASES], ids=lambda case: case.name)
def test_no_request_grows_faster_than_n_log_n(growths: Mapping[str, Growth], case: Case) -> None:
    """Ten times the size is at most about twenty times the processor time, for the registry and its client together."""
    assert growths[case.name].exponent <= MAX_EXPONENT, str(growths[case.name])


def test_every_route_is_measured(registry: Serving) -> None:
    """Each method of each path template of the API, and each other endpoint, is in the table of cases or has a reason."""
    app = cast("Application", registry.app)
    assert app._api is not None
    routes = {(method, ROUTES[kind]) for kind, methods in app._api._table.items() for method in methods}
    admin = app._endpoints[ADMIN_PREFIX]
    assert isinstance(admin, AdminApi)
    routes |= {(route.method, route.path) for route in admin.routes} | {("GET", DOCUMENT)}
    measured = {(case.method, case.route) for case in (*CASES, *ADMIN_CASES)}
    endpoints = set(app._endpoints)

    assert routes - measured == set()
    assert endpoints - {route for _, route in measured} - NOT_MEASURED.keys() == set()
