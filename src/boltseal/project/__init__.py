"""Image references in a project's files: find them, lock them, pin them, verify them. No CLI output, no server.

One module per file format reads a file into `ImageReference`s (`references/`). `scan` walks a project and selects the
format. `edits` computes new file texts and checks that nothing else changed. `lock`, `pin` and `verify` decide which
digest a reference gets, with the answers of registries (`resolve`). `bases/` checks whether base images are outdated.
"""
