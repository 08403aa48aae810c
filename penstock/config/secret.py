"""A secret: a string that shows itself to nobody who does not ask by name (Invariant 9)."""

from __future__ import annotations

import hmac
from typing import Any

MASK = "***"


class Secret:
    """A password, token or connection string. `repr`, `str`, formatting and serialisation show `***`; `reveal()` the value."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself: for the call that needs it, never for a message."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"  # Invariant 9: reprs end up in logs and tracebacks

    def __str__(self) -> str:
        return MASK  # Invariant 9: so does text

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema as core

        text = core.no_info_after_validator_function(cls, core.str_schema(strict=True))
        return core.json_or_python_schema(
            json_schema=text,
            python_schema=core.union_schema([core.is_instance_schema(cls), text]),
            serialization=core.plain_serializer_function_ser_schema(str),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "format": "password", "writeOnly": True}
