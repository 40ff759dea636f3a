"""Other registries, as a client: who we are to them, requests that are retried and never leak, answers that are verified.

challenges   what `WWW-Authenticate` asks for (pure)
credentials  Docker's and Podman's files, credential helpers
quota        what a registry says is left (pure)
tokens       bearer tokens, one for many repositories
transport    one request: address, authorization, retries, redirects
running      a hash beside a transfer
registry     the distribution API over it, every digest verified
poll         many HEADs: deduplicated, paced
"""
