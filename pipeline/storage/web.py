"""Images at web addresses that somebody else has named: only from the public internet.

Or a manifest could make this machine ask others behind the same firewall, or a cloud's metadata
service, and publish what they answer. The address that is connected to is what counts, so neither
a name that leads there nor a redirection helps.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem, filesystem

if TYPE_CHECKING:
    import aiohttp

REFUSED = "its host is not on the public internet (--allow-private lets it be asked)"


class PrivateAddress(PermissionError):
    """A host that is not on the public internet."""


def public_web() -> AbstractFileSystem:
    """A file system for http(s) that connects to public addresses only."""
    return filesystem("http", get_client=_get_client, skip_instance_cache=True)


def is_private(error: BaseException) -> bool:
    """Whether that is why a host was not asked."""
    return isinstance(getattr(error, "os_error", error), PrivateAddress)


async def _get_client(**options: Any) -> aiohttp.ClientSession:
    import aiohttp  # 0.2 s, for the jobs that ask the web

    connector = aiohttp.TCPConnector(socket_factory=_public_socket)
    return aiohttp.ClientSession(connector=connector, **options)


def _public_socket(info: Any) -> socket.socket:
    family, kind, protocol, _, address = info
    if not is_public(address[0]):
        raise PrivateAddress(REFUSED)
    return socket.socket(family, kind, protocol)


def is_public(host: str) -> bool:
    """Whether an IP address, in figures, is one of the public internet."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in ipaddress.ip_network("64:ff9b::/96"):  # RFC 6052
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        address = inner or address
    return address.is_global and not address.is_multicast
