"""Use cases of the client's commands, one module each, without argument parsing and output."""
