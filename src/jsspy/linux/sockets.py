"""Where a process listens for TCP connections.

Source of the formats: Documentation/networking/proc_net_tcp.rst and tcp_seq_show, tcp6_seq_show in
net/ipv4/tcp_ipv4.c and net/ipv6/tcp_ipv6.c, at v6.12.
"""

from __future__ import annotations

import ipaddress
import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jsspy.errors import JsspyError
from jsspy.linux import libc
from jsspy.linux.procfs import ProcessFiles

_LISTEN = "0A"
_SOCKET = "socket:["


class Endpoint(NamedTuple):
    """An address with a port."""

    host: str
    port: int

    def to_url(self, path: str) -> str:
        """Return the URL of a path of the server there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}{path}"


def decode_listeners(table: bytes) -> dict[str, Endpoint]:
    """Decode `/proc/PID/net/tcp` or `tcp6`.

    Returns:
        Inode -> endpoint of each socket that listens; lines that make no sense are left out.
    """
    found = {}
    for line in table.decode("ascii", "replace").splitlines()[1:]:
        fields = line.split()
        if len(fields) < 10 or fields[3] != _LISTEN:
            continue
        host, _, port = fields[1].partition(":")
        try:
            words = bytes.fromhex(host)
            # Words of 4 bytes, each as the machine stores it.
            address = b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
            found[fields[9]] = Endpoint(str(ipaddress.ip_address(address)), int(port, 16))
        except ValueError:
            continue
    return found


def find_listeners(pid: int) -> list[Endpoint]:
    """Return where a process listens, in its own network namespace.

    Raises:
        ProcessExited: It is gone.
        PermissionDenied: Its files may not be listed.
    """
    files = ProcessFiles(pid)
    try:
        listeners = decode_listeners(files.read("net/tcp"))
        with suppress(JsspyError):  # a kernel without IPv6
            listeners |= decode_listeners(files.read("net/tcp6"))
        descriptor = files.open("fd")
        try:
            with os.scandir(descriptor) as entries:
                names = [entry.name for entry in entries]
        except OSError as err:
            raise libc.failure("list the files of", pid, err.errno or 0) from err
        finally:
            os.close(descriptor)
        found = []
        for name in names:
            try:
                link = files.read_link(f"fd/{name}")
            except JsspyError:
                continue  # closed meanwhile
            if link.startswith(_SOCKET) and (endpoint := listeners.get(link[len(_SOCKET) : -1])):
                found.append(endpoint)
        return sorted(set(found))
    finally:
        files.close()


def network_namespace(pid: int | str) -> str:
    """Return the name of a process's network namespace; "" if it may not be known."""
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""
