"""What `serve` says of where it keeps what it stores."""

from __future__ import annotations

from pathlib import Path

from boltseal.cli.serve import places
from boltseal.server.settings import Settings

DATABASE = "postgresql://boltseal:secret@db.example.com/boltseal"


def test_the_greeting_names_the_place_of_each_part() -> None:
    """The data folder alone is named where all is in it; else the database without its password, the bucket and the keys."""
    data = Path("/srv/data")
    shown = [
        places(Settings.model_validate({"server": {"data": data}, "storage": storage}))
        for storage in ({}, {"database": DATABASE, "blobs": "s3://bucket/prefix"}, {"blobs": "s3://bucket"})
    ]

    assert shown == [
        "its data is in /srv/data",
        "its metadata is in postgresql://boltseal:***@db.example.com/boltseal, its blobs are in s3://bucket/prefix, its keys in "
        "/srv/data.keys",
        "its metadata is in /srv/data, its blobs are in s3://bucket, its keys in /srv/data.keys",
    ]
