"""A scripted Kubernetes API server: a real HTTPS server that behaves as documented for what kubectl and boltseal ask of it.

Server-side apply with field managers, conflicts and dry runs, preconditions, generations, watches with resource versions and 410, and
namespaces, as https://kubernetes.io/docs/reference/using-api/ says. Its controllers are `tests.kube.controllers`. It was not compared with
a kube-apiserver: there is none here.
"""

from __future__ import annotations

import base64
import copy
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kube.controllers import Controllers
from tests.kube.discovery import KINDS, Kinds, described
from tests.kube.field_sets import find, from_fields, leaves, merge, remove, shown, to_fields
from tests.kube.https_listener import Fault, Refused, listener

Document = dict[str, Any]
TOKEN = "valid"  # noqa: S105 - of this server only

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+)/(?P<version>[^/]+))(?:/namespaces/(?P<namespace>[^/]+)(?=/[^/]))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)


@dataclass
class ApiServer:
    """`token`: the valid one. `asked`: method and path of every request."""

    token: str = TOKEN
    objects: dict[tuple[str, str, str, str], Document] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    version: int = 100
    events: list[tuple[int, str, Document]] = field(default_factory=list)
    oldest: int = 0
    controllers: Controllers = field(default_factory=Controllers)
    port: int = 0
    on_request: Callable[[str], None] = field(default_factory=lambda: lambda _: None)
    """Called with method and path before each request is answered."""
    defects: list[str] = field(default_factory=list)
    """Tracebacks of this server, which tests check."""

    def __post_init__(self) -> None:
        self.changed = threading.Condition(self.lock)
        for name in ("default", "shop", "kube-system"):
            self.put("v1", "Namespace", "", name, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})

    def kinds(self) -> Kinds:
        """Return all kinds, with those of CustomResourceDefinitions."""
        found = {version: list(each) for version, each in KINDS.items()}
        for (_, kind, _, _), each in self.objects.items():
            if kind == "CustomResourceDefinition":
                spec = each["spec"]
                for version in spec["versions"]:
                    names = (spec["names"]["plural"], spec["names"]["kind"], spec["scope"] == "Namespaced")
                    found.setdefault(f"{spec['group']}/{version['name']}", []).append(names)
        return found

    def put(self, api_version: str, kind: str, namespace: str, name: str, document: Document) -> Document:
        """Store an object, as a controller or another client would."""
        with self.lock:
            key = (api_version, kind, namespace, name)
            former = self.objects.get(key)
            document = copy.deepcopy(document)
            metadata = document.setdefault("metadata", {})
            self.version += 1
            now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            metadata |= {"name": name, "resourceVersion": str(self.version)} | (
                {"namespace": namespace} if namespace else {}
            )
            old = {} if former is None else former["metadata"]
            metadata["uid"] = old.get("uid") or str(uuid.uuid4())
            metadata["creationTimestamp"] = old.get("creationTimestamp") or now
            changed = former is not None and former.get("spec") != document.get("spec")
            metadata["generation"] = old.get("generation", 0 if former is None else 1) + (
                1 if former is None or changed else 0
            )
            self.objects[key] = document
            self.changed.notify_all()
            self.controllers.seen(document)
            self.events.append((self.version, "ADDED" if former is None else "MODIFIED", copy.deepcopy(document)))
            return document

    def get(self, kind: str, name: str, namespace: str = "shop") -> Document | None:
        """Return an object as it is now."""
        with self.lock:
            found = next((each for key, each in self.objects.items() if key[1:] == (kind, namespace, name)), None)
            return None if found is None else self.controllers.with_status(copy.deepcopy(found))

    def names(self, kind: str, namespace: str = "shop") -> list[str]:
        """Return the names of all objects of a kind."""
        with self.lock:
            return sorted(key[3] for key in self.objects if key[1] == kind and key[2] in (namespace, ""))

    def delete_namespace(self, name: str) -> None:
        """Delete a namespace with all of its objects."""
        with self.lock:
            for key in [key for key in self.objects if key[2] == name or key[1:] == ("Namespace", "", name)]:
                self.remove(key)

    def remove(self, key: tuple[str, str, str, str]) -> Document:
        """Remove an object, as a controller or another client would."""
        self.version += 1
        gone = self.objects.pop(key)
        self.events.append((self.version, "DELETED", gone))
        return gone

    def expire_watches(self) -> None:
        """Forget all events: a watch from an older version gets 410 Gone."""
        with self.lock:
            self.events.clear()
            self.oldest = self.version

    def answer(self, method: str, target: str, body: bytes, headers: dict[str, str]) -> Any:
        """Return the answer to a request: a document, a text, or an iterator of a watch. Raises: Refused."""
        url = urlsplit(target)
        query = {key: each[-1] for key, each in parse_qs(url.query, keep_blank_values=True).items()}
        if headers.get("authorization") != f"Bearer {self.token}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        found = described(url.path, self.kinds())
        if found is not None:
            return found
        match = _PATH.fullmatch(url.path)
        if match is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        api_version = match["core"] or f"{match['group']}/{match['version']}"
        kind = next((each for each in self.kinds().get(api_version, ()) if each[0] == match["plural"]), None)
        if kind is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        where = (api_version, kind[1], match["namespace"] or "")
        with self.lock:
            if (
                match["namespace"]
                and ("v1", "Namespace", "", match["namespace"]) not in self.objects
                and method != "GET"
            ):
                raise Refused(404, "NotFound", f'namespaces "{match["namespace"]}" not found')
            if method == "GET":
                return self._got(where, match, query)
            return self._written(method, where, match, body, query, headers.get("content-type", ""))

    def _got(self, where: tuple[str, str, str], match: re.Match[str], query: dict[str, str]) -> Any:
        if match["sub"] == "log":
            return "".join(f"{line}\n" for line in self.controllers.log)
        if match["name"] is None:
            return self._listed(where, query)
        return self.controllers.with_status(copy.deepcopy(self._existing((*where, match["name"]), match["plural"])))

    def _written(
        self,
        method: str,
        where: tuple[str, str, str],
        match: re.Match[str],
        body: bytes,
        query: dict[str, str],
        kind: str,
    ) -> Document:
        plural, key = match["plural"], (*where, match["name"] or "")
        if method == "POST":
            return self._created(where, json.loads(body), plural, query)
        if method == "PATCH" and kind.startswith("application/apply-patch"):
            return self._applied(key, json.loads(body), query)
        if method in ("PUT", "PATCH"):
            return self._updated(key, json.loads(body), plural, query, merged=method == "PATCH")
        return self._deleted(key, json.loads(body or b"{}"), plural)

    def _existing(self, key: tuple[str, str, str, str], plural: str) -> Document:
        if key not in self.objects:
            if key[1] == "Pod" and (pod := self.controllers.pod(self.objects.values(), key[3])):
                return pod
            group = f".{key[0].rpartition('/')[0]}" if "/" in key[0] else ""
            raise Refused(404, "NotFound", f'{plural}{group} "{key[3]}" not found')
        return self.objects[key]

    def _listed(self, where: tuple[str, str, str], query: dict[str, str]) -> Any:
        if query.get("watch") in ("1", "true"):
            return self._watched(where, query)
        items = [
            self.controllers.with_status(copy.deepcopy(each))
            for key, each in sorted(self.objects.items())
            if key[:2] == where[:2] and where[2] in ("", key[2]) and _selected(each, query)
        ]
        if where[1] == "Pod":
            pods = self.controllers.pods(self.objects.values())
            items += [
                each for each in pods if where[2] in ("", each["metadata"]["namespace"]) and _selected(each, query)
            ]
        return {
            "apiVersion": where[0],
            "kind": f"{where[1]}List",
            "metadata": {"resourceVersion": str(self.version)},
            "items": items,
        }

    def _watched(self, where: tuple[str, str, str], query: dict[str, str]) -> Iterator[Document]:
        since = int(query.get("resourceVersion") or 0)
        if since and since < self.oldest:
            raise Refused(410, "Expired", f"too old resource version: {since} ({self.oldest})")

        def events() -> Iterator[Document]:
            at, ends, states = since, time.monotonic() + float(query.get("timeoutSeconds") or 30), dict[str, str]()
            while time.monotonic() < ends:
                with self.lock:
                    new = [each for each in self.events if each[0] > at]
                    at = max([at, *(each[0] for each in new)])
                    current = [
                        each for key, each in self.objects.items() if key[:2] == where[:2] and where[2] in ("", key[2])
                    ]
                    current = [
                        self.controllers.with_status(copy.deepcopy(each)) for each in current if _selected(each, query)
                    ]
                for _, kind, each in new:
                    if kind == "DELETED" and (each["apiVersion"], each["kind"]) == where[:2] and _selected(each, query):
                        yield {"type": kind, "object": each}
                for each in current:
                    text = json.dumps(each, sort_keys=True)
                    if states.get(each["metadata"]["uid"]) != text:
                        states[each["metadata"]["uid"]] = text
                        yield {"type": "MODIFIED", "object": each}
                with self.changed:
                    self.changed.wait(0.05)

        return events()

    def _created(self, where: tuple[str, str, str], document: Document, plural: str, query: dict[str, str]) -> Document:
        key = (*where, document["metadata"]["name"])
        if key in self.objects:
            raise Refused(409, "AlreadyExists", f'{plural} "{key[3]}" already exists')
        self._check_quotas(key, plural)
        document["metadata"]["managedFields"] = [
            _entry(query.get("fieldManager", "unknown"), "Update", key[0], _paths(document))
        ]
        return document if query.get("dryRun") else self.put(*key, document)

    def _updated(
        self, key: tuple[str, str, str, str], sent: Document, plural: str, query: dict[str, str], *, merged: bool
    ) -> Document:
        live = copy.deepcopy(self._existing(key, plural))
        expected = (sent.get("metadata") or {}).get("resourceVersion")
        if expected and expected != live["metadata"]["resourceVersion"]:
            raise Refused(
                409, "Conflict", f'Operation cannot be fulfilled on {plural} "{key[3]}": the object has been modified'
            )
        new = merge(live, sent) if merged else {**sent, "metadata": {**live["metadata"], **sent["metadata"]}}
        manager = query.get("fieldManager", "unknown")
        changed = {path for path, value in leaves(_own(new)) if find(live, path) != value}
        entries = [
            _entry(each["manager"], each["operation"], key[0], from_fields(each["fieldsV1"]) - changed)
            for each in _entries(live)
        ]
        mine = next((each for each in entries if (each["manager"], each["operation"]) == (manager, "Update")), None)
        if changed and mine is None:
            entries.append(_entry(manager, "Update", key[0], changed))
        elif changed and mine is not None:
            mine["fieldsV1"] = to_fields(from_fields(mine["fieldsV1"]) | changed)
        new["metadata"]["managedFields"] = entries
        return new if query.get("dryRun") else self.put(*key, new)

    def _applied(self, key: tuple[str, str, str, str], applied: Document, query: dict[str, str]) -> Document:
        manager = query["fieldManager"]
        self._validate(key, applied)
        live = copy.deepcopy(self.objects.get(key))
        if live is None:
            self._check_quotas(key, next(each[0] for each in self.kinds()[key[0]] if each[1] == key[1]))
        entries = [] if live is None else _entries(live)
        paths = _paths(applied)
        others = [each for each in entries if (each["manager"], each["operation"]) != (manager, "Apply")]
        conflicts = [
            (each["manager"], path)
            for each in others
            for path in sorted(from_fields(each["fieldsV1"]) & paths)
            if find(live, path) != find(applied, path)
        ]
        if conflicts and query.get("force") != "true":
            causes = [
                {
                    "reason": "FieldManagerConflict",
                    "message": f'conflict with "{who}" using {key[0]}',
                    "field": shown(path),
                }
                for who, path in conflicts
            ]
            listed = ", ".join(f'conflict with "{who}" using {key[0]}: {shown(path)}' for who, path in conflicts)
            count = f"{len(conflicts)} conflict{'s' if len(conflicts) > 1 else ''}"
            raise Refused(409, "Conflict", f"Apply failed with {count}: {listed}", causes)
        lost = {path for _, path in conflicts}
        mine = next((each for each in entries if (each["manager"], each["operation"]) == (manager, "Apply")), None)
        former = set() if mine is None else from_fields(mine["fieldsV1"])
        kept = {path for each in others for path in from_fields(each["fieldsV1"]) - lost}
        new: Document = {"apiVersion": key[0], "kind": key[1], "metadata": {}} if live is None else live
        for path in sorted(former - paths - kept, reverse=True):
            remove(new, path)
        new = merge(new, applied)
        new["metadata"]["managedFields"] = [
            _entry(each["manager"], each["operation"], key[0], from_fields(each["fieldsV1"]) - lost) for each in others
        ] + [_entry(manager, "Apply", key[0], paths)]
        new = {**new, "metadata": {**new["metadata"], "name": key[3], **({"namespace": key[2]} if key[2] else {})}}
        if live is not None and _own(new) == _own(self.objects[key]) and _entries(new) == _entries(self.objects[key]):
            return self.controllers.with_status(copy.deepcopy(self.objects[key]))  # nothing changed: no new version
        if query.get("dryRun") == "All":
            new["metadata"].setdefault("uid", str(uuid.uuid4()))
            return new
        return self.controllers.with_status(copy.deepcopy(self.put(*key, new)))

    def _validate(self, key: tuple[str, str, str, str], applied: Document) -> None:
        """Refuse what the API server refuses: a workload without a selector, a changed Job."""
        if key[1] == "Deployment" and "selector" not in applied.get("spec", {}):
            text = f'Deployment.apps "{key[3]}" is invalid: spec.selector: Required value'
            raise Refused(422, "Invalid", text)
        live = self.objects.get(key)
        if (
            key[1] == "Job"
            and live is not None
            and live["spec"].get("template") != merge(live["spec"].get("template"), applied["spec"].get("template"))
        ):
            raise Refused(
                422, "Invalid", f'Job.batch "{key[3]}" is invalid: spec.template: Invalid value: field is immutable'
            )

    def _check_quotas(self, key: tuple[str, str, str, str], plural: str) -> None:
        """Refuse a new object of which a ResourceQuota has enough. A dry run counts nothing, so each object is checked alone."""
        counted = f"count/{plural}"
        used = sum(each[1:3] == key[1:3] for each in self.objects)
        for each, document in self.objects.items():
            hard = (document.get("spec") or {}).get("hard", {}) if each[1:3] == ("ResourceQuota", key[2]) else {}
            if counted in hard and used >= int(hard[counted]):
                text = f'{plural} "{key[3]}" is forbidden: exceeded quota: {each[3]}, requested: {counted}=1, used: {counted}={used}'
                raise Refused(403, "Forbidden", f"{text}, limited: {counted}={hard[counted]}")

    def _deleted(self, key: tuple[str, str, str, str], options: Document, plural: str) -> Document:
        live = self._existing(key, plural)
        wanted = (options.get("preconditions") or {}).get("uid")
        if wanted and wanted != live["metadata"]["uid"]:
            text = f'Operation cannot be fulfilled on {plural} "{key[3]}": Precondition failed: UID in precondition: {wanted}'
            raise Refused(409, "Conflict", text)
        self.remove(key)
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Success",
            "details": {"name": key[3], "uid": live["metadata"]["uid"]},
        }

    @contextmanager
    def listening(self, folder: Path, context: str = "prod", port: int = 0) -> Iterator[Path]:
        """Answer requests over TLS; yield a kubeconfig with a context of this name."""
        server = listener(self, folder, port)
        self.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        config = folder / f"kubeconfig-{context}"
        config.write_text(kubeconfig({context: self.port}, folder / "ca.crt", self.token))
        try:
            yield config
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def kubeconfig(ports: dict[str, int], authority: Path, token: str, namespace: str = "shop") -> str:
    """Return a kubeconfig with a context for each of these ports."""
    data = base64.b64encode(authority.read_bytes()).decode()
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {"name": name, "cluster": {"server": f"https://127.0.0.1:{port}", "certificate-authority-data": data}}
                for name, port in ports.items()
            ],
            "users": [{"name": "ann", "user": {"token": token}}],
            "contexts": [
                {"name": name, "context": {"cluster": name, "user": "ann", "namespace": namespace}} for name in ports
            ],
        }
    )


def _selected(document: Document, query: dict[str, str]) -> bool:
    labels = document["metadata"].get("labels") or {}
    for each in filter(None, query.get("labelSelector", "").split(",")):
        key, _, value = each.partition("=")
        if labels.get(key) != value:
            return False
    for each in filter(None, query.get("fieldSelector", "").split(",")):
        key, _, value = each.partition("=")
        if key == "metadata.name" and document["metadata"]["name"] != value:
            return False
    return True


def _own(document: Document) -> Document:
    """Return what clients write of an object."""
    metadata = {
        key: value
        for key, value in document.get("metadata", {}).items()
        if key in ("labels", "annotations", "finalizers")
    }
    return {key: value for key, value in document.items() if key not in ("status", "metadata")} | {"metadata": metadata}


def _paths(document: Document) -> set[tuple[str, ...]]:
    return {path for path, _ in leaves(_own(document))}


def _entries(document: Document) -> list[Document]:
    return copy.deepcopy(document["metadata"].get("managedFields") or [])


def _entry(manager: str, operation: str, version: str, paths: set[tuple[str, ...]]) -> Document:
    return {
        "manager": manager,
        "operation": operation,
        "apiVersion": version,
        "fieldsType": "FieldsV1",
        "fieldsV1": to_fields(paths),
    }
