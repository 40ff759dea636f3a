"""Settings of a server on PostgreSQL and S3, for the measures of both."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.storage_servers import ACCESS_KEY, BUCKET, SECRET_KEY, ObjectServer

LOGIN: Final = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}


def config(folder: Path, database: str, objects: ObjectServer, *, redirect: bool = False) -> str:
    """Return the settings of a server on PostgreSQL and S3. The mark is on the same S3 server."""
    (folder / "mark.key").write_text(f"{ACCESS_KEY}\n{SECRET_KEY}\n")
    return (
        f'[storage]\ndatabase = "{database}"\nblobs = "s3://{BUCKET}/{folder.name}"\n'
        f'[storage.s3]\nendpoint = "{objects.endpoint}"\nredirect = {str(redirect).lower()}\n'
        f'[storage.mark]\nurl = "s3://{BUCKET}/mark-{folder.name}/boltseal.mark"\nendpoint = "{objects.endpoint}"\n'
        f'access_key_file = "{folder / "mark.key"}"\n'
    )
