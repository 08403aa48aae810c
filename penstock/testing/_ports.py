"""Ports of 127.0.0.1 for servers that tests start."""

from __future__ import annotations

import socket


def reserve() -> socket.socket:
    """A free port, held by a socket that never listens: with SO_REUSEADDR a server can bind it too, and nobody is given it.

    Not even while the server is down; nor does a client that tries to connect then become its own peer, as happens with ports
    that the kernel may give to clients. The port is `getsockname()[1]`; close the socket when the server is done for good.
    """
    reservation = socket.socket()
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reservation.bind(("127.0.0.1", 0))
    return reservation
