"""The API server at our edge: plain dicts in and out."""

from driver.kube.asked import verb_and_resource
from driver.kube.client import LARGE_BODY, MERGE_PATCH, RESOURCE, Api, ApiError, claim_path, decoded
from driver.kube.credentials import SERVICE_ACCOUNT, Access, ConfigError
from driver.kube.decode import decode_frugally
from driver.kube.events import NodeEvents
from driver.kube.http import Http
from driver.kube.server_clock import ServerClock
from driver.kube.shapes import check_list, check_node, check_object, odd, uid_of
from driver.kube.transient import IF_TRANSIENT
from driver.kube.watch import Mirror

__all__ = [
    "IF_TRANSIENT",
    "LARGE_BODY",
    "MERGE_PATCH",
    "RESOURCE",
    "SERVICE_ACCOUNT",
    "Access",
    "Api",
    "ApiError",
    "ConfigError",
    "Http",
    "Mirror",
    "NodeEvents",
    "ServerClock",
    "check_list",
    "check_node",
    "check_object",
    "claim_path",
    "decode_frugally",
    "decoded",
    "odd",
    "uid_of",
    "verb_and_resource",
]
