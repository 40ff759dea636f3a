"""The database: protocol, schema, migrations, and one module of queries per table."""
