"""Images at web addresses that somebody else has named: only from the public internet.

Or a manifest could make this machine ask others behind the same firewall, or a cloud's metadata
service, and publish what they answer. The address that is connected to is what counts, so neither
a name that leads there nor a redirection helps. And a host that never answers, or answers without
end, costs its row and no more.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import partial
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem, filesystem

from pipeline.storage.retry import CONNECT_TIMEOUT, READ_TIMEOUT

if TYPE_CHECKING:
    import aiohttp

REFUSED = "its host is not on the public internet (--allow-private lets it be asked)"


# Seconds, in all. So often as a request is tried, a worker does not count as hanging meanwhile.
TIMEOUT = 120

MAX_BYTES = 512 << 20


class TooLarge(PermissionError):
    """An answer that does not end."""


class PrivateAddress(PermissionError):
    """A host that is not on the public internet."""


def web_system(allow_private: bool) -> AbstractFileSystem:
    """A file system for http(s).

    Args:
        allow_private: whether it connects to addresses that are not public, too.
    """
    client = partial(_get_client, allow_private)
    return filesystem("http", get_client=client, skip_instance_cache=True)


def is_private(error: BaseException) -> bool:
    """Whether that is why a host was not asked."""
    return isinstance(getattr(error, "os_error", error), PrivateAddress)


async def _get_client(allow_private: bool, **options: Any) -> aiohttp.ClientSession:
    import aiohttp  # 0.2 s, for the jobs that ask the web

    class Answer(aiohttp.ClientResponse):
        async def read(self) -> bytes:
            parts = bytearray()
            async for part in self.content.iter_any():
                parts += part
                if len(parts) > MAX_BYTES:
                    raise TooLarge(f"its host sends more than {MAX_BYTES >> 20} MB")
            return bytes(parts)

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=None if allow_private else _public_socket),
        timeout=aiohttp.ClientTimeout(
            TIMEOUT, sock_connect=CONNECT_TIMEOUT, sock_read=READ_TIMEOUT
        ),
        response_class=Answer,
        **options,
    )


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
