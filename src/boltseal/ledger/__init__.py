"""The transparency log: entries, Merkle tree, checkpoints, receipts and their verification. Pure."""
