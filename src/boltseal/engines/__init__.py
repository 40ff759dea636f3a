"""Container engines of a host: clients of their APIs, and readers of their stores on disk, which ask no daemon.

The content of a store is under suspicion: it is parsed strictly, bounded, and not trusted. `host.scrub` verifies it.
Nothing is written, and symbolic links out of a store are not followed.
"""
