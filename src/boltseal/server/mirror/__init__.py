"""Other registries' images, served from our store. Whose name leads where is `policy/leads`; HTTP is `api`."""
