"""What code does not do: import inside functions; and test code: sleep where it can poll, share through test modules, mock."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src/boltseal"
FILES = [path for path in sorted(TESTS.rglob("*.py")) if path != Path(__file__)]

SLEEPS = {
    "attacks/test_witnesses.py": (1, "a body that arrives byte by byte"),
    "cli/test_history.py": (1, "a time between two pushes, by both clocks"),
    "cli/test_progress.py": (1, "the pace of the work whose progress is shown"),
    "client/test_hostile_answers.py": (2, "the pace of a sender"),
    "client/test_kept_images.py": (1, "the work of a task that has the lock"),
    "client/test_limits.py": (1, "a body without an end"),
    "client/test_transport.py": (2, "a body that arrives byte by byte; proof that no further request arrives"),
    "compatibility/make.py": (1, "a server of an earlier revision writes its outbox, which it does not report"),
    "contracts/test_blob_store.py": (1, "the second writer waits meanwhile"),
    "contracts/test_metadata.py": (1, "the age of a waiting job grows"),
    "contracts/test_coordination.py": (2, "the work under a lock; the moment of a cancellation"),
    "coordination_stores.py": (3, "processes that hold something until they are killed"),
    "engines/test_bounded_answers.py": (1, "the end of a connection arrives, which the client does not report"),
    "fakes/upstream.py": (1, "a slow upstream"),
    "host/scrub/test_host.py": (2, "a clock that only sleeping advances; the pace of a user's key presses"),
    "notify/receivers.py": (1, "a receiver that does not answer"),
    "notify/test_closed_database.py": (1, "proof that no event arrives twice"),
    "notify/test_dispatch.py": (
        3,
        "proof that no event arrives twice; a dispatcher that waits, which it does not report",
    ),
    "notify/test_server.py": (2, "proof that no event arrives twice"),
    "object_faults.py": (1, "a request that the object store does late, which is the fault"),
    "polling.py": (2, "the pause between two questions"),
    "project/bases/test_base_scan.py": (1, "a body that arrives byte by byte"),
    "real/test_push_proxy.py": (2, "workers save their metrics, which are compared for equality"),
    "real/engines/test_ps.py": (1, "the next whole second of the clock"),
    "server/faults/checker.py": (1, "the pause of a pusher that was refused"),
    "server/faults/delaying_proxy.py": (1, "the latency that is tested"),
    "server/faults/test_kills.py": (1, "the moment of a kill, at random"),
    "server/faults/test_slow_stores.py": (1, "how long the database is slow"),
    "server/api/test_request.py": (2, "the pace of a client, by a clock that sleeping advances"),
    "server/commands/test_move_data.py": (1, "the pace of a client that tries again while pushes are refused"),
    "server/mirror/test_push_proxy_killed.py": (
        2,
        "an upstream that does not answer before the server is killed, at once",
    ),
    "keyless/test_verifier.py": (1, "a library that does not end, in a process that is ended"),
    "real/engines/bridged.py": (1, "the pace of a client"),
    "server/mirror/test_retention.py": (1, "rows are deleted meanwhile, and bytes not yet"),
    "server/mirror/test_tags.py": (1, "a slow upstream"),
    "server/mirror/test_upstream_down.py": (1, "an upstream that does not answer"),
    "server/serve/test_reload_and_stop.py": (
        2,
        "a reload begins, which nothing reports; proof that a stop waits for it",
    ),
    "server/replicas/counting_proxy.py": (1, "the latency by which requests at the same time overlap"),
    "server/replicas/test_faults.py": (2, "the moment of a fault, at random; how long it lasts"),
    "server/replicas/test_beside.py": (1, "requests reach a stopped server, which nothing reports"),
    "server/serve/test_start_and_end.py": (1, "a server that shuts down, which no answer reports"),
    "server/storage/object_pusher.py": (1, "the pace of a client that tries again while the object store is restarted"),
    "server/storage/test_blobs_local.py": (2, "proof that a cancelled request waits; writers fill the memory"),
    "server/storage/test_blobs_local_crash.py": (2, "the moment of a kill, at random; a process that is killed"),
    "server/storage/test_blobs_local_faults.py": (1, "a connection breaks while the disk is busy"),
    "server/storage/test_postgres_lost_coordination.py": (1, "the time in which no file descriptor is free"),
    "server/storage/test_objects_killed.py": (2, "the moment of a kill, at random"),
    "server/storage/test_postgres_faults.py": (1, "a process that is stopped for a while"),
    "server/storage/test_upload_admission.py": (4, "the pace of clients"),
    "servers.py": (1, "a start that fails at once, and shows its log, when the process ends"),
    "soak/test_kill.py": (1, "the moment of a kill, at random"),
    "test_socket_backend.py": (4, "more bytes arrive, or the end of a connection, which the client does not report"),
}
"""Sleeps for which `tests.polling` is no replacement: their number in each file, and the reason."""


def test_waiting_is_polling() -> None:
    """Only listed files call sleep, which is too short on a busy machine and too long on an idle one."""
    sleep = re.compile(r"\bsleep\((?!0\))")
    found = {path.relative_to(TESTS).as_posix(): len(sleep.findall(path.read_text())) for path in FILES}

    assert {name: count for name, count in found.items() if count} == {
        name: count for name, (count, _) in SLEEPS.items()
    }


def test_what_tests_share_is_in_no_test_module() -> None:
    """No test imports from a module whose name begins with `test_`, also in programs within strings."""
    shared = re.compile(r"^\s*(?:from|import) tests\.(?:\w+\.)*test_\w+", re.MULTILINE)

    assert {path.name: found for path in FILES if (found := shared.findall(path.read_text()))} == {}


def test_what_a_test_changes_is_an_argument() -> None:
    """No test replaces a name of the code, because it would test other code than users run."""
    replaced = re.compile(
        r"\.(?:setattr|setitem|delattr|delitem)\(|^\s*(?:from|import) (?:unittest|mock)\b", re.MULTILINE
    )

    assert {path.name: found for path in FILES if (found := replaced.findall(path.read_text()))} == {}


def test_only_one_module_imports_on_demand() -> None:
    """No function of the package imports a module, and only `boltseal.loading` imports one by its name."""
    found = {path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py") if imports_on_demand(path)}

    assert found == {"loading.py"}


def imports_on_demand(path: Path) -> bool:
    """Return whether a file has an import inside a function, or uses what imports by name."""
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    inside = [node for each in functions for node in ast.walk(each) if isinstance(node, ast.Import | ast.ImportFrom)]
    by_name = re.search(r"\b(?:import_module|__import__|LazyLoader)\b", ast.unparse(tree))
    return bool(inside) or by_name is not None


def test_a_module_that_calls_itself_pure_does_no_io() -> None:
    """A module whose docstring says `Pure.` imports no module of the standard library that does I/O or reads a clock."""
    claims = re.compile(r"\bPure[.;:]")
    effects = {
        "asyncio",
        "fcntl",
        "os",
        "random",
        "select",
        "signal",
        "socket",
        "sqlite3",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
    }
    imported = {
        path.relative_to(SOURCE).as_posix(): modules_in(path) & effects
        for path in SOURCE.rglob("*.py")
        if claims.search(ast.get_docstring(ast.parse(path.read_text())) or "")
    }

    assert len(imported) > 20
    assert {name: modules for name, modules in imported.items() if modules} == {}


def modules_in(path: Path) -> set[str]:
    """Return the top-level names of the modules that a file imports; not `sys` for its constants and `intern` alone."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    members = {
        node.module or ""
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        if node.module != "sys" or {alias.name for alias in node.names} - {"intern", "maxsize"}
    }
    return {name.partition(".")[0] for name in plain | members}
