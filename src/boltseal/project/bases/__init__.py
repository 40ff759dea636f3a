"""Find out on which base image an image was built, and whether the base's tag resolves to another image now.

The decisions are pure: `image_facts`, `base_claims`, `layer_match`, `freshness` (outdated or not), `changes` (what is
different) and `rebuild_order` (bases first). `base_scan` asks registries for what they need.
"""
