"""Documents that leave out what few of them say."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import GetJsonSchemaHandler, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import CoreSchema

from planner.contract.documents import Document


class Sparse(Document):
    """Leaves out the fields ``SELDOM`` where they are as they are when nothing is said."""

    SELDOM: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _what_is_said(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        said: dict[str, Any] = handler(self)
        fields = type(self).model_fields
        return {n: value for n, value in said.items() if n not in self.SELDOM or getattr(self, n) != fields[n].default}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """What is written has the fields of what is read, of which the seldom ones may be left out."""
        plain = {name: value for name, value in core.items() if name != "serialization"}
        found = handler.resolve_ref_schema(handler(plain))
        if "required" in found:
            found["required"] = [name for name in found["required"] if name not in cls.SELDOM]
        return found
