"""The port of whoever answers HTTP."""

from __future__ import annotations

import errno
import socket

from gradmq import link
from gradmq.errors import SettingsError


def http_listener(host: str, port: int, backlog: int) -> socket.socket:
    """A socket that listens at this address; port 0 takes a free one.

    Raises ``SettingsError`` that names the address and what to do, for a port in use or not
    permitted, and for a host that is unknown or not this machine's.
    """
    where = f"{host}:{port}"
    if port not in range(2**16):
        raise SettingsError(f"cannot serve HTTP at {where}: a port is a number from 0 to 65535")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        raise SettingsError(f"cannot serve HTTP at {where}: no such host") from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Ports of connections that ended a minute ago may be taken again at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(backlog)
    except OSError as error:
        listener.close()
        raise SettingsError(f"cannot serve HTTP at {where}: {_remedy(error)}") from error
    return listener


def told_address(host: str, port: int, advertise: str = "") -> str:
    """HOST:PORT that others are told of who listens at ``host``.

    ``advertise``, if others reach it at all; without one, who listens at every address is told by
    the name of this host.
    """
    if not link.is_loopback(host):
        host = advertise or (link.this_host() if host in link.EVERYWHERE else host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _remedy(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use: choose another one, or 0 for any that is free"
    if error.errno == errno.EACCES:
        return "no permission for this port: choose one above 1023, or 0 for any that is free"
    if error.errno == errno.EADDRNOTAVAIL:
        return "the host is no address of this machine: choose one that is, or 127.0.0.1"
    return str(error)
