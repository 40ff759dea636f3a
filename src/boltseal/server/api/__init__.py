"""HTTP requests and responses of the registry. No rules: `registry`, `mirror` and `policy` decide."""
