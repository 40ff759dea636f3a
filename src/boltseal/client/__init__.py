"""Client of other registries: credentials, transport, verified content, and the ledgers that registries publish.

challenges              `WWW-Authenticate` headers, parsed (pure)
config_files            files of the user and of other tools, read with limits
registry_settings       `[[client.registry]]` of the user's settings (pure)
registries_conf         registries.conf of podman and skopeo
certificates            CAs and client certificates of registries, in certs.d
registry_configuration  how each registry is reached, by all these files
credentials             credential files of Docker and Podman, credential helpers
pull_limit              rate-limit headers (pure)
tokens                  bearer tokens, shared by many repositories
transport               one request: address, authorization, retries, redirects
ssrf_guard              the addresses that a connection may go to (pure)
background_hash         a hash computed in a thread during a transfer
registry_client         the distribution API; every digest is verified
head_requests           many tags resolved by HEAD: deduplicated, paced
state                   the client's state folder
document_cache          manifests and configs by digest, and earlier observations of tags
tag_observations        hash-chained log of what tags resolved to over time
ledger_client           reads the ledger of a registry
ledger_trust            compares a ledger with what was seen of it before
ledger_records          records of images in a ledger
history                 the proven history of one repository or tag
receipts                receipts of tags
witness                 client of a ledger's witness
ledger_monitor          audits a whole ledger
"""
