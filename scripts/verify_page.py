"""Write verify.html, a single file that checks proofs of a ledger, from the module that the pages use.

    python scripts/verify_page.py

Sources: `static/proof.js` and `verify_page/` in src/boltseal/server/web. The script and the style are inside the page, and its
policy (CSP) allows only these, by their hashes. A test compares the file with what this script writes.
"""

from __future__ import annotations

import re
from base64 import b64encode
from hashlib import sha256
from pathlib import Path
from typing import Final

WEB: Final = Path(__file__).parent.parent / "src/boltseal/server/web"
PAGE: Final = WEB / "static/verify.html"
_POLICY: Final = "default-src 'none'; script-src '{script}'; style-src '{style}'; connect-src http: https:; form-action 'none'; base-uri 'none'"


def build() -> str:
    """Return the text of the page."""
    module = (WEB / "static/proof.js").read_text(encoding="utf-8")
    form = (WEB / "verify_page/page.js").read_text(encoding="utf-8")
    form = re.sub(r"\Aimport \{[^}]*\} from \"[^\"]*\";\n", "", form)
    script = "\n" + re.sub(r"^export ", "", module, flags=re.MULTILINE) + form
    style = (WEB / "verify_page/page.css").read_text(encoding="utf-8")
    policy = _POLICY.format(script=_source(script), style=_source(style))
    page = (WEB / "verify_page/page.html").read_text(encoding="utf-8")
    values = {"policy": policy, "style": style, "script": script}
    return re.sub(r"@(policy|style|script)@", lambda match: values[match[1]], page)


def _source(text: str) -> str:
    """Return how a policy names an inline script or style."""
    return f"sha256-{b64encode(sha256(text.encode()).digest()).decode()}"


if __name__ == "__main__":
    PAGE.write_text(build(), encoding="utf-8")
