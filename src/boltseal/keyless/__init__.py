"""Verification of keyless signatures (certificate, time, log entry and signature of sigstore bundles), and of time stamps (RFC 3161).

The library for it (the extra `sigstore`) runs in a process of its own, which gets bytes and returns values (`process`):
bundles come from any client that may push, and the library has many dependencies. `verifier` starts that process, limits it and
remembers its results. What a result is worth for an image, `signatures.keyless_bundle` and `signatures.time_stamps` decide.
"""
