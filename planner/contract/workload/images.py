"""Images that prompts hold: how many, and their size."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field

from planner.contract.documents import PLAIN_NUMBER, Document, checked
from profiles.errors import InputError
from profiles.values import shown

Pixels = Annotated[int, Field(gt=0, le=32768), PLAIN_NUMBER]

IMAGES_HELP = "write both, for example images=2,image=1024x1024 (width x height in pixels)"
SIZE_PATTERN = r"[0-9]{1,9}[x×][0-9]{1,9}"

_SIZE = re.compile(SIZE_PATTERN)


class Images(Document):
    """Images of one size in every prompt, beside its ``isl`` tokens of text: their own tokens are added."""

    count: Annotated[int, Field(gt=0, le=1000), PLAIN_NUMBER] = Field(description="in each prompt")
    width_pixels: Pixels = Field(description="of each")
    height_pixels: Pixels = Field(description="of each")
    tokens: Annotated[int, Field(gt=0), PLAIN_NUMBER] | None = Field(
        default=None, description="of each in the prompt; null: as the model counts them, which is filled in"
    )

    @property
    def told(self) -> str:
        """In words."""
        each = f" ({self.tokens:,} tokens each)" if self.tokens else ""
        return f"{self.count} image{'s' if self.count > 1 else ''} of {self.width_pixels} x {self.height_pixels}{each}"


def parse_images(count: str, size: str, where: str) -> Images:
    """``2`` images of ``1024x1024`` pixels.

    Args:
        where: what the two words stand in, for messages.

    Raises:
        InputError: one of the two is missing, or not what it should be.
    """
    if not count or not size:
        missing = "image" if count else "images"
        raise InputError(f"{where}: {missing} is missing beside {'images' if count else 'image'}", IMAGES_HELP)
    if not re.fullmatch(r"-?[0-9]{1,9}", count, re.ASCII):
        raise InputError(f"{where}: images={shown(count)} is not a whole number", IMAGES_HELP)
    if not _SIZE.fullmatch(size):
        raise InputError(f"{where}: image={shown(size)} is not a size", IMAGES_HELP)
    width, height = re.split("[x×]", size)
    return checked(Images, {"count": int(count), "width_pixels": int(width), "height_pixels": int(height)}, where)
