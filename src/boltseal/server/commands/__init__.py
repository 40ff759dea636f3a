"""Use cases on the data folder, with or without a running server."""
