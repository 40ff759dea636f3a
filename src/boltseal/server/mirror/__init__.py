"""The pull-through cache and push proxy for other registries. `policy.name_resolution` maps names to upstreams."""
