"""Who uses the command, as records of what people asked for name them."""

from __future__ import annotations

import getpass
import os
import socket


def sender() -> str:
    """`user@host`."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):  # a user id that no name belongs to, as in some containers
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"
