"""The manipulations that root can make to a store's records, in each engine's store: each is found, or is harmless."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from boltseal.host.scrub.report import ReportStatus
from tests.attacks.scrub.document_manipulations import OF_DOCUMENTS
from tests.attacks.scrub.file_manipulations import Manipulation
from tests.attacks.scrub.record_manipulations import OF_RECORDS
from tests.attacks.scrub.stores import Store

pytestmark = pytest.mark.real

MANIPULATIONS = {**OF_RECORDS, **OF_DOCUMENTS}
ROWS = [(name, each) for each, row in MANIPULATIONS.items() for name in row.stores]


@pytest.mark.parametrize(("name", "manipulation"), ROWS, ids=lambda each: getattr(each, "__name__", each))
def test_a_change_of_a_record_is_found_or_harmless(
    copy_of: Callable[[str], Store], name: str, manipulation: Manipulation
) -> None:
    """A change of a record that changes what a container gets is a difference of a stated kind, and no other is."""
    store, kinds = copy_of(name), MANIPULATIONS[manipulation].kinds
    manipulation(store)

    reports = store.scrub()

    if not kinds:
        assert [(each.status, each.differences, each.unknown) for each in reports] == [(ReportStatus.HOLDS, (), ())]
    else:
        assert kinds & {each.kind for report in reports for each in report.differences}, reports
