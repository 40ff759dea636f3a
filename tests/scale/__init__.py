"""How work grows with the number of tags, referrers, repositories, tags per manifest, platforms and entries."""
