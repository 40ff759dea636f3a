"""The size of the soak tests: minutes by default, full size with TEST_SCALE=full (`make soak`); and their seed."""

from __future__ import annotations

import os

MEBIBYTE = 1024 * 1024
IS_FULL = os.environ.get("TEST_SCALE") == "full"
SEED = int(os.environ.get("TEST_SEED", "1"))
"""Of random choices: another number gives other sequences, the same number the same ones."""

KILLS = 50 if IS_FULL else 3
BIG_BLOB_BYTES = 4096 * MEBIBYTE if IS_FULL else 256 * MEBIBYTE
POLLED_REPOSITORIES = 500 if IS_FULL else 100
MANY_PUSHES = 200 if IS_FULL else 40
MANY_PUSH_BYTES = 64 * MEBIBYTE if IS_FULL else 16 * MEBIBYTE
SCRUBBED_ENTRIES = 1_000_000 if IS_FULL else 10_000
