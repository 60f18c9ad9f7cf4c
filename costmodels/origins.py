"""How a figure was obtained. Apart from the arrays that carry it, because the plan document names it too."""

from __future__ import annotations

from typing import Literal

How = Literal["measured", "forest", "roofline"]
HOW: tuple[How, ...] = ("measured", "forest", "roofline")
MEASURED, FOREST, ROOFLINE = range(3)
