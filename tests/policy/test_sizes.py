"""Sizes in the configuration."""

from __future__ import annotations

import pytest

from boltseal.policy.quotas import parse_quotas
from boltseal.policy.sizes import SizeInvalid, parse_size
from boltseal.policy.upstreams import parse_upstreams


@pytest.mark.parametrize(
    ("value", "size_bytes"),
    [
        (0, 0),
        (7, 7),
        ("7", 7),
        ("7B", 7),
        ("1 KB", 1000),
        ("1KiB", 1024),
        ("50 GiB", 50 * 2**30),
        ("2TB", 2 * 10**12),
        ("3MiB", 3 * 1024**2),
    ],
)
def test_a_size_is_a_number_with_or_without_a_unit(value: object, size_bytes: int) -> None:
    """KB and MB are powers of 1000, KiB and MiB of 1024, and a number without a unit is bytes."""

    assert parse_size(value) == size_bytes


@pytest.mark.parametrize(
    "value", ["much", -1, True, 1.5, "1.5GiB", "-1", "", " 1", "1  GB", "1iB", "1 gb", None, "9" * 16]
)
def test_a_value_that_is_no_size_is_refused(value: object) -> None:
    """An invalid size is refused with the value and an example."""
    with pytest.raises(SizeInvalid, match='expected a size, such as "50 GiB"'):
        parse_size(value)


def test_quotas_and_upstreams_take_the_same_sizes() -> None:
    """`max_bytes` and `keep_bytes` accept the same texts as the same numbers."""
    quotas = parse_quotas([{"users": ["ci"], "max_bytes": "500 MB"}])
    upstreams = parse_upstreams([{"name": "docker.io", "keep_bytes": "500 MB"}])

    assert quotas.of("ci").max_bytes == upstreams[0].keep_bytes == 500_000_000
