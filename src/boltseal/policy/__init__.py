"""Rules: which tags are sealed, who may do what, how names are resolved, what upstreams may change. Pure."""
