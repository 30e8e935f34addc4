"""Listening sockets, decoded from the kernel's tables."""

from __future__ import annotations

import os
import socket

from hypothesis import given
from hypothesis import strategies as st

from jsspy.linux.sockets import Endpoint, decode_listeners, find_listeners

TCP = b"""\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:240D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1
   1: 0100007F:240D 0100007F:A1B2 01 00000000:00000000 00:00000000 00000000     0        0 4243 1
   2: nonsense:240D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4244 1
   3: 0100007F:240D 00000000:0000 0A
"""
TCP6 = b"""\
  sl  local_address                         remote_address                        st tx_queue ...
   0: 00000000000000000000000001000000:24DD 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 7
"""


def test_tables() -> None:
    assert decode_listeners(TCP) == {"4242": Endpoint("127.0.0.1", 9229)}
    assert decode_listeners(TCP6) == {"7": Endpoint("::1", 9437)}


def test_urls() -> None:
    assert Endpoint("127.0.0.1", 80).to_url("/a") == "http://127.0.0.1:80/a"
    assert Endpoint("::1", 80).to_url("/a") == "http://[::1]:80/a"


@given(st.binary(max_size=300))
def test_any_table_ends(table: bytes) -> None:
    decode_listeners(b"head\n" + table)


def test_our_own_sockets() -> None:
    before = find_listeners(os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert Endpoint("127.0.0.1", port) in find_listeners(os.getpid())
    assert find_listeners(os.getpid()) == before
