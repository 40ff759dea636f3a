"""The command line: one verb, one file, each thin: read the arguments, call what does it, print what it answered.

Results go to stdout, talk to stderr. Every verb that answers something has `--json`. A verb's module imports nothing
heavy until the verb runs, so that `boltseal --help` is instant.
"""
