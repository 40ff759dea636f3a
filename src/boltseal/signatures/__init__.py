"""Signatures and attestations of images: their formats and their verification. Pure.

Bytes in, values out. Where the bytes come from (referrers, signature tags, files) is the caller's concern, and so is which
signers are trusted: a verification gets the key to verify with, and nothing inside a signature chooses it.
"""
