"""The command line: one module per command, which declares arguments, calls a use case and prints the result.

Results go to stdout, notices and errors to stderr. Every command with results has `--json`. A command's module is imported
when the command runs, and `boltseal --help` imports none.
"""
