"""One table of the configuration, with typed access to its values. Pure. The kinds of tables add what their values need."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping

from boltseal.errors import Invalid, quote


class ConfigTable:
    """A table whose keys are all known. `where`: the table in messages. `invalid`: the class of its errors."""

    def __init__(self, where: str, table: Mapping[str, object], keys: Collection[str], invalid: type[Invalid]) -> None:
        self.where = where
        self.invalid = invalid
        self.values = table
        for key in table:
            if key not in keys:
                near = difflib.get_close_matches(key, keys, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise invalid(f"{where}: unknown key {quote(key)}{hint} (there are {', '.join(keys)})")

    def wrong(self, key: str, expected: str) -> Invalid:
        """Return the error for a missing or wrong value of `key`."""
        if key not in self.values:
            return self.invalid(f"{self.where}: {key} is missing; expected {expected}")
        return self.invalid(f"{self.where}: {key} is {quote(str(self.values[key]))}; expected {expected}")

    def flag(self, key: str) -> bool:
        """Return true or false; false if the key is not there. Raises: Invalid, as all methods do, of the class `invalid`."""
        value = self.values.get(key, False)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value
