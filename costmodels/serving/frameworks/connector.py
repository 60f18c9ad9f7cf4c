"""How a framework hands a request over from the engine that prefills to the one that decodes, as data."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class KvConnector(BaseModel):
    """The connector with which plans are started.

    Attributes:
        overlap: how much of the transfer runs while the prompt is still being computed: ``layer`` (each layer's cache
            leaves as soon as it is written), ``chunk`` (each prefill chunk's), ``none`` (all of it after the prompt).
        first_token: what brings the first token to the user: ``transfer`` (the prefill engine's token, handed on with
            the cache) or ``decode_step`` (the decode engine computes it).
        pipeline: roles whose engines may have several pipeline stages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    overlap: Literal["layer", "chunk", "none"]
    first_token: Literal["transfer", "decode_step"]
    pipeline: tuple[Literal["prefill", "decode"], ...]
