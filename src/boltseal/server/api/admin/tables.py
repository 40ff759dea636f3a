"""Builds the admin API: all of its routes over one registry."""

from __future__ import annotations

from boltseal.server.api.access_log import RequestLog
from boltseal.server.api.admin.api_tokens import ApiTokenRoutes
from boltseal.server.api.admin.application import AdminApi
from boltseal.server.api.admin.collection import CollectionRoutes
from boltseal.server.api.admin.expiry import ExpiryRoutes
from boltseal.server.api.admin.hosts import HostRoutes
from boltseal.server.api.admin.operator_reads import OperatorReads
from boltseal.server.api.admin.pipeline_sessions import PipelineSessionRoutes
from boltseal.server.api.admin.refused_pushes import RefusedPushReads
from boltseal.server.api.admin.repository_reads import RepositoryReads
from boltseal.server.api.admin.rule_plans import RulePlans
from boltseal.server.api.admin.tag_changes import TagChanges
from boltseal.server.api.admin.users import UserRoutes
from boltseal.server.api.auth import RequestAuth
from boltseal.server.api.settings import ApiSettings
from boltseal.server.commands.collection import ServedCollection
from boltseal.server.registry import Registry
from boltseal.server.registry.opened_store import OpenStore
from boltseal.server.settings import Settings
from boltseal.server.storage.coordination.protocol import Leases


def admin_api(
    observer: RequestLog,
    auth: RequestAuth,
    api_settings: ApiSettings,
    registry: Registry,
    settings: Settings,
    store: OpenStore,
    leases: Leases,
) -> AdminApi:
    """Return the admin API of one registry. `settings`: the rules, names and upstreams in force."""
    access = auth.access
    parts = (
        RepositoryReads(registry, access, settings.rules, settings.name_resolver),
        RefusedPushReads(registry.refused_pushes, access),
        TagChanges(registry, access),
        RulePlans(registry.tag_states, settings.rules),
        OperatorReads(registry, access, settings),
        ExpiryRoutes(registry),
        CollectionRoutes(ServedCollection(store, leases, settings)),
        UserRoutes(access),
        ApiTokenRoutes(access),
        HostRoutes(registry.host_reports, access),
        PipelineSessionRoutes(access),
    )
    return AdminApi(observer, auth, api_settings, [route for part in parts for route in part.routes()])
