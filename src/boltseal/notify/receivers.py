"""Builds who is told: reads addresses and secrets from where the settings say, and makes a receiver of each.

Secrets are read once, at the start. They are in no setting, no message and no log; nor is an address, since many hold one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from boltseal.config import secret
from boltseal.errors import Invalid
from boltseal.notify.apprise_receiver import AppriseReceiver
from boltseal.notify.dispatch import ByApprise, ByWebhook, Dispatcher, Feed, Receiver
from boltseal.notify.webhook import Webhook

if TYPE_CHECKING:
    from boltseal.policy.notifications import NotifySettings

OUTBOX_NAME: Final = "outbox.db"
MAX_SECRET_BYTES: Final = 16 * 1024


def build_receivers(terms: Sequence[NotifySettings]) -> list[Receiver]:
    """Who is told. Invalid, ConfigInvalid, WebhookInvalid, AuthorityInvalid."""
    return [Receiver(each.name, each.events, _sender(each)) for each in terms]


def build_dispatcher(
    terms: Sequence[NotifySettings],
    folder: Path,
    source: str,
    clock_us: Callable[[], int],
    feeds: Sequence[Feed] = (),
    *,
    quiet: bool = False,
) -> Dispatcher | None:
    """What tells them, over the outbox in `folder`; None where nobody is to be told. As `build_receivers`."""
    receivers = build_receivers(terms)
    return Dispatcher(folder / OUTBOX_NAME, receivers, source, clock_us, feeds, quiet=quiet) if receivers else None


class Notifier:
    """A dispatcher in a thread and an event loop of its own, so that no push waits for a receiver."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._thread = threading.Thread(target=self._run, name="boltseal-notify", daemon=True)

    def start(self) -> None:
        """From now on somebody is told; also of what happens before the thread comes to it."""
        self.dispatcher.begin()
        self._thread.start()

    def close(self) -> None:
        """What was told by now is on the disk when this returns."""
        self.dispatcher.end()
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(self.dispatcher.run())


def _sender(terms: NotifySettings) -> ByWebhook | ByApprise:
    url = terms.url or _read(terms, terms.url_file, terms.url_env, "its address")
    key = _read(terms, terms.secret_file, terms.secret_env, "its secret") or None
    if url.partition("://")[0].lower() not in ("http", "https"):
        if key is not None or terms.ca_file is not None:
            raise Invalid(f"notify {terms.name}: secret and ca_file are for webhooks; Apprise has its own")
        if "://" not in url:
            raise Invalid(f"notify {terms.name}: its address is none; expected https://... or one of Apprise")
        if find_spec("apprise") is None:
            raise Invalid(f'notify {terms.name}: its url needs the notify extra: pip install "boltseal[notify]"')
        return ByApprise(AppriseReceiver(terms.name, url, terms.networks))
    make = partial(
        Webhook,
        url,
        secret=key,
        networks=terms.networks,
        ca_file=None if terms.ca_file is None else Path(terms.ca_file),
    )
    try:
        make()  # what is wrong with it is said at the start; no connection is made before there is something to tell
    except Invalid as error:
        raise Invalid(f"notify {terms.name}: {error.message}") from error
    return ByWebhook(make)


def _read(terms: NotifySettings, file: str | None, variable: str | None, what: str) -> str:
    if variable is not None:
        return secret(variable)
    if file is None:
        return ""
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MAX_SECRET_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Invalid(f"notify {terms.name}: {what} can't be read from {file}: {reason}") from error
    if not text or "\n" in text or not text.isprintable():
        raise Invalid(f"notify {terms.name}: {file} holds more or less than {what}; expected one line")
    return text
