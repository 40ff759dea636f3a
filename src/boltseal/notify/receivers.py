"""Build the receivers of `[[notify]]`: read URLs and secrets from where the settings say.

Secrets are read once, at the start. They are in no setting, message or log; nor are URLs, since many contain a secret.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from boltseal.config import secret_variable
from boltseal.errors import Invalid
from boltseal.notify.apprise_receiver import AppriseReceiver
from boltseal.notify.dispatch import AppriseSender, Dispatcher, Feed, Receiver, WebhookSender
from boltseal.notify.outbox import Outbox
from boltseal.notify.webhook import Webhook
from boltseal.policy.notifications import NotifySettings

MAX_SECRET_BYTES: Final = 16 * 1024


def build_receivers(terms: Sequence[NotifySettings]) -> list[Receiver]:
    """Build the receivers. Raises: Invalid: a URL or secret is unreadable or malformed, or Apprise is not installed."""
    return [Receiver(each.name, each.events, _sender(each)) for each in terms]


def build_dispatcher(
    terms: Sequence[NotifySettings],
    outbox: Outbox,
    source: str,
    clock_us: Callable[[], int],
    feeds: Sequence[Feed] = (),
    *,
    quiet: bool = False,
) -> Dispatcher | None:
    """Build the receivers and the dispatcher; None without receivers. Raises: Invalid."""
    receivers = build_receivers(terms)
    return Dispatcher(outbox, receivers, source, clock_us, feeds, quiet=quiet) if receivers else None


class Notifier:
    """A dispatcher in a thread with an event loop of its own, so that no push waits for a receiver."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.dispatcher = dispatcher
        self._thread = threading.Thread(target=self._run, name="boltseal-notify", daemon=True)

    def start(self) -> None:
        """Deliver events from now on, including those before the thread is running."""
        self.dispatcher.begin()
        self._thread.start()

    def close(self) -> None:
        """Stop the thread; queued events are on disk when it returns."""
        self.dispatcher.end()
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            runner.run(self.dispatcher.run())


def _sender(terms: NotifySettings) -> WebhookSender | AppriseSender:
    url = terms.url or _read(terms, terms.url_file, terms.url_env, "its url")
    key = _read(terms, terms.secret_file, terms.secret_env, "its secret") or None
    if url.partition("://")[0].lower() not in ("http", "https"):
        if key is not None or terms.ca_file is not None:
            raise Invalid(f"notify {terms.name}: secret and ca_file are for webhooks; Apprise has its own")
        if "://" not in url:
            raise Invalid(f"notify {terms.name}: malformed url; expected https://... or a URL of Apprise")
        if find_spec("apprise") is None:
            raise Invalid(f'notify {terms.name}: its url needs the notify extra: pip install "boltseal[notify]"')
        return AppriseSender(AppriseReceiver(terms.name, url, terms.networks))
    make = partial(
        Webhook,
        url,
        secret=key,
        networks=terms.networks,
        ca_file=None if terms.ca_file is None else Path(terms.ca_file),
    )
    try:
        make()  # reports configuration errors at the start; connects only when there is an event
    except Invalid as error:
        raise Invalid(f"notify {terms.name}: {error.message}") from error
    return WebhookSender(make)


def _read(terms: NotifySettings, file: str | None, variable: str | None, what: str) -> str:
    if variable is not None:
        return secret_variable(variable)
    if file is None:
        return ""
    try:
        with Path(file).open("rb") as opened:
            text = opened.read(MAX_SECRET_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise Invalid(f"notify {terms.name}: can't read {what} from {file}: {reason}") from error
    if not text or "\n" in text or not text.isprintable():
        raise Invalid(f"notify {terms.name}: {file} does not contain {what}; expected one line of printable text")
    return text
