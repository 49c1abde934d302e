"""HTTP to addresses that a stranger named: never to private ones, whatever redirects and name servers say.

The name is resolved once, every address it has must be public, and the connection is made to the very address that was checked. Nothing
is taken from proxy variables. Each request has one deadline for everything, and a limit of bytes.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import logging
import socket
import ssl
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Forbidden(ValueError):
    """An address that this server does not talk to."""


class Unreachable(Exception):
    """The other side did not answer as it should, or not in time."""


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    media_type: str
    body: bytes


def check_url(url: str, allowed_hosts: Collection[str] = (), name: str = "url") -> SplitResult:
    """Refuse what is no plain http(s) address; nothing is resolved yet.

    Raises:
        Forbidden: another scheme, a user name, a port out of range, or a private address written out.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise Forbidden(f"`{name}` must be an http(s) address, got one that cannot be read.") from None
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() or ord(c) < 33 for c in url):
        raise Forbidden(f"`{name}` must be an http(s) address, got {url[:80]!r}.")
    if parts.username is not None or parts.password is not None:
        raise Forbidden(f"`{name}` must not hold a user name or password; use an address that needs none.")
    if port == 0:
        raise Forbidden(f"`{name}` must have a port from 1 to 65535, got 0.")
    try:
        host.encode("idna")
    except UnicodeError:
        raise Forbidden(f"`{name}` must have a valid host name.") from None
    literal = _literal(host)
    if literal is not None and not _allowed(parts, allowed_hosts) and not is_public(literal):
        raise Forbidden(f"`{name}` must not name a private, loopback or link-local address, got {host}.")
    return parts


def request(
    method: str,
    url: str,
    *,
    body: bytes | None = None,
    seconds: float,
    max_bytes: int,
    allowed_hosts: Collection[str] = (),
    redirects: bool = False,
    name: str = "url",
) -> Reply:
    """Send one request.

    Args:
        method: "GET" or "POST".
        url: http(s).
        body: JSON, of a POST.
        seconds: for everything: resolving, connecting, redirects and reading.
        max_bytes: of the reply's body.
        allowed_hosts: "host" or "host:port" that may be private.
        redirects: follow up to `MAX_REDIRECTS`, each checked like the first; otherwise a redirect is the reply.
        name: of the argument, for messages.

    Raises:
        Forbidden: an address not to talk to, also behind a redirect.
        Unreachable: no connection, no valid reply, too slow, or too large.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MAX_REDIRECTS + 1):
        parts = check_url(url, allowed_hosts, name)
        reply, location = _once(method, parts, body, deadline, max_bytes, allowed_hosts, name)
        if not redirects or location is None or reply.status not in (301, 302, 303, 307, 308):
            return reply
        url = urljoin(url, location)
    raise Unreachable(f"`{name}` redirects more than {MAX_REDIRECTS} times.")


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address belongs to the public internet, also when it is an IPv4 address in IPv6 clothes."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved and not address.is_unspecified


def resolve(host: str, port: int, seconds: float) -> list[str]:
    """The addresses of a host name, within `seconds`.

    Raises:
        Unreachable: none, or no answer in time.
    """
    found: list[str] = []
    failed: list[Exception] = []

    def look_up() -> None:
        try:
            entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            found.extend(dict.fromkeys(str(entry[4][0]) for entry in entries))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    thread = threading.Thread(target=look_up, daemon=True)  # getaddrinfo knows no deadline
    thread.start()
    thread.join(max(0.0, seconds))
    if not found:
        raise Unreachable(f"the host {host} cannot be resolved ({failed[0] if failed else 'no answer in time'}).")
    return found


def _once(
    method: str,
    parts: SplitResult,
    body: bytes | None,
    deadline: float,
    max_bytes: int,
    allowed_hosts: Collection[str],
    name: str,
) -> tuple[Reply, str | None]:
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = resolve(host, port, deadline - time.monotonic())
    if not _allowed(parts, allowed_hosts):
        for address in addresses:
            if not is_public(ipaddress.ip_address(address.split("%")[0])):
                raise Forbidden(f"`{name}` must not lead to a private, loopback or link-local address; {host} does.")
    connection = _Pinned(host, port, addresses[0], parts.scheme == "https", deadline)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"User-Agent": "videogen", "Accept-Encoding": "identity", "Connection": "close"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    watch = threading.Timer(max(0.0, deadline - time.monotonic()), connection.abort)
    watch.daemon = True
    watch.start()
    try:
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        chunks, size = [], 0
        while True:
            chunk = response.read1(65536)
            if not chunk:
                if time.monotonic() >= deadline:
                    raise TimeoutError
                break
            size += len(chunk)
            if size > max_bytes:
                raise Unreachable(f"`{name}` must lead to at most {max_bytes} bytes, got more.")
            chunks.append(chunk)
        reply = Reply(response.status, response.headers.get_content_type(), b"".join(chunks))
        return reply, response.headers.get("location")
    except (OSError, http.client.HTTPException, ValueError, UnicodeError) as error:
        late = isinstance(error, TimeoutError) or time.monotonic() >= deadline
        reason = "no answer in time" if late else f"{type(error).__name__}: {error}"
        raise Unreachable(f"`{name}`: {host} did not answer as it should ({reason[:200]}).") from None
    finally:
        watch.cancel()
        connection.close()


class _Pinned(http.client.HTTPConnection):
    """A connection to one address under another name. `abort` ends it from outside: a time-out of the socket counts anew with
    every byte, so that a slow sender could hold on for ever."""

    def __init__(self, host: str, port: int, address: str, secure: bool, deadline: float):
        super().__init__(host, port)
        self.address, self.secure, self.deadline = address, secure, deadline

    def connect(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock = socket.create_connection((self.address, self.port), left)
        if self.secure:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)

    def abort(self) -> None:
        """End whatever waits on this connection."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def _allowed(parts: SplitResult, allowed_hosts: Collection[str]) -> bool:
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = (parts.hostname or "").casefold()
    return host in allowed_hosts or f"{host}:{port}" in allowed_hosts


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.split("%")[0])
    except ValueError:
        return None
