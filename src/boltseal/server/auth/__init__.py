"""Users, logins, tokens, failed logins and access."""
