"""Reads the fields of a message one by one: for the rare kinds, where clearness counts more than speed."""

from __future__ import annotations

from struct import Struct

from connectors.sources._pg_replication import protocol_error

_U1, _U2, _U4, _I4, _U8 = (Struct(form) for form in ("!B", "!H", "!I", "!i", "!Q"))


class Cursor:
    """Where reading stands in `data`.

    Each method raises struct.error, ValueError or ProtocolError, where the data ends too early or holds no such field.
    """

    __slots__ = ("_at", "_data", "xid")

    def __init__(self, data: bytes, xid: int, at: int) -> None:
        self._data = data
        self._at = at
        self.xid = xid

    def u1(self) -> int:
        return self._number(_U1)

    def u2(self) -> int:
        return self._number(_U2)

    def u4(self) -> int:
        return self._number(_U4)

    def i4(self) -> int:
        return self._number(_I4)

    def u8(self) -> int:
        return self._number(_U8)

    def text(self) -> str:
        """UTF-8, ended by a zero byte."""
        end = self._data.index(0, self._at)
        value = self._data[self._at : end].decode()
        self._at = end + 1
        return value

    def content(self, length: int) -> bytes:
        value = self._data[self._at : self._at + length]
        self._at += length
        return value

    def end(self) -> None:
        """:raises ProtocolError: the message is longer, or shorter, than what was read of it."""
        if self._at != len(self._data):
            raise protocol_error("a message does not end where its last field does")

    def _number(self, form: Struct) -> int:
        (value,) = form.unpack_from(self._data, self._at)
        self._at += form.size
        return int(value)
