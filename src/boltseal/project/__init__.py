"""References in a project's own files: found, pinned by span, proven by reading again. No HTTP, no store.

One file per format reads it into `Site`s (`values`); `scan` walks a project and asks them; `edit` makes new texts of
sites and digests and proves that nothing else has changed. Which digest a reference has is decided elsewhere.
"""
