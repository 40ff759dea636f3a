"""Files on disk: atomic writes, interprocess locks, and the check that a named file exists."""
