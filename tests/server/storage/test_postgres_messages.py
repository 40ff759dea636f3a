"""What clients and operators read when PostgreSQL can't be used."""

from __future__ import annotations

import pytest

from boltseal.server.storage.metadata.postgres_messages import unusable

ACCESS = "nothing was changed; check [storage] database and the file that PGPASSFILE names"
AT = 'connection failed: connection to server at "10.1.2.3", port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "cause", "advice"),
    [
        (f"{AT}fe_sendauth: no password supplied", "fe_sendauth: no password supplied", ACCESS),
        (
            f'{AT}FATAL: password authentication failed for user "bob" password retrieved from file "/etc/secret/pgpass"',
            "FATAL: password authentication failed for user",
            ACCESS,
        ),
        (f'{AT}FATAL: database "secret" does not exist', "FATAL: database does not exist", ACCESS),
        (
            f"{AT}Connection refused Is the server running on that host and accepting TCP/IP connections?",
            "Connection refused",
            "nothing was changed; try again",
        ),
        (
            'connection is bad: connection to server at "db.secret" (10.1.2.3), port 5432 failed: timeout expired',
            "timeout expired",
            "nothing was changed; try again",
        ),
        (
            "Multiple connection attempts failed. All failures were: - host: 'secret', port: '1', hostaddr: '10.1.2.3': "
            'connection failed: connection to server at "10.1.2.3", port 1 failed: Connection refused',
            "Connection refused",
            "nothing was changed; try again",
        ),
        (
            'could not translate host name "db.secret" to address: Name or service not known',
            "could not translate host name to address: Name or service not known",
            "nothing was changed; try again",
        ),
    ],
)
def test_an_unusable_database_is_reported_without_its_address(text: str, cause: str, advice: str) -> None:
    """Clients read why the database can't be used and what to do, and neither its host, its user nor a file's path."""
    assert unusable(text) == f"the registry's database can't be used ({cause}): {advice}"
