"""Opens a client of the S3 server with the mark: address and credentials in, obstore's store out. No secret is in an error or a log.

The bucket of the blobs has credentials of the environment and longer time limits: `blobs.object_client`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from boltseal.loading import deferred

if TYPE_CHECKING:
    from obstore import store
else:  # a server on files never loads it
    store = deferred("obstore.store")

ANSWER_S: Final = 5
"""How long one request may take."""
RETRIES: Final = 3


@dataclass(frozen=True, slots=True)
class ObjectPlace:
    """A bucket, and the prefix of its keys. `url`: s3://BUCKET/PREFIX. `login`: key id and secret; None: AWS_* or the machine's."""

    url: str
    endpoint: str | None = None
    region: str | None = None
    login: tuple[str, str] | None = field(default=None, repr=False)


def open_objects(place: ObjectPlace) -> store.S3Store:
    """Return a client of the place. It connects with the first request."""
    parts = urlsplit(place.url)
    options: dict[str, Any] = {"endpoint": place.endpoint, "region": place.region}
    if place.login is not None:
        options |= {"access_key_id": place.login[0], "secret_access_key": place.login[1]}
    return store.S3Store(
        parts.netloc,
        prefix=parts.path.strip("/") or None,
        client_options={
            "allow_http": place.endpoint is not None and place.endpoint.startswith("http://"),
            "timeout": timedelta(seconds=ANSWER_S),
            "connect_timeout": timedelta(seconds=2),
        },
        retry_config={
            "max_retries": RETRIES,
            "retry_timeout": timedelta(seconds=ANSWER_S),
            "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=1), "base": 2},
        },
        **{name: value for name, value in options.items() if value is not None},
    )
