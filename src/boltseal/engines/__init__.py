"""What a host's engines have, and where its bytes lie: read from their folders, never asked of a daemon.

Everything here is the word of the disk that is under suspicion: parsed strictly, bounded, and believed nowhere. What it
must be, and whether it is, is the business of `scrub`. Nothing is written, and no link leads out of a store.
"""
