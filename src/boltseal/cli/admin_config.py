"""`boltseal admin config`: show every setting and its source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from boltseal.cli.options import ConfigOption, DataOption, JsonOption
from boltseal.cli.output import CommandOutput, say
from boltseal.cli.server_options import flags_of
from boltseal.cli.table import print_table
from boltseal.server.configuration import load_with_sources
from boltseal.server.storage_settings import BucketUrl, DatabaseUrl


def admin_config(config: ConfigOption = None, data: DataOption = None, as_json: JsonOption = False) -> None:
    """Show every setting and its source: the default, the file, a variable or a flag.

    These are the settings with which a server would start now. Passwords and keys are not settings; they are in the keys'
    folder.
    """
    with CommandOutput("admin-config", as_json=as_json) as output:
        loaded = load_with_sources(config, flags_of(data=data))
        for value in loaded.values:
            output.add(ref=value.name, status=value.source, value=_plain(value.value), where=value.where)
        if not as_json:
            print_table(
                ("SETTING", "VALUE", "FROM"),
                [(value.name, _shown(value.value), value.where or value.source) for value in loaded.values],
            )
            say(f"keys and users are in {loaded.settings.keys}")


def _plain(value: Any) -> Any:
    if isinstance(value, Path | DatabaseUrl | BucketUrl):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _shown(value: Any) -> str:
    plain = _plain(value)
    if plain is None:
        return "-"
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
