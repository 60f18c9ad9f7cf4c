"""Whole numbers of a shell's ``$((…))``: what POSIX has of C's operators, on names with known values."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

LONGEST = 200
_NAME = re.compile(r"\b[A-Za-z_]\w*\b")
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def computed(expression: str, variables: Mapping[str, str]) -> int | None:
    """Its value; None: it holds what is not known here, or what shells do not take."""
    names = [name for name in _NAME.findall(expression) if not re.fullmatch(r"[0-9]+", variables.get(name, ""))]
    text = _NAME.sub(lambda found: variables.get(found[0], ""), expression).strip()
    if names or len(text) > LONGEST or not re.fullmatch(r"[0-9()+*/%\s-]+", text) or "**" in text or "//" in text:
        return None
    try:
        return _value(ast.parse(re.sub(r"\b0+(?=[0-9])", "0o", text), mode="eval").body)
    except (SyntaxError, ZeroDivisionError, ValueError):
        return None


def _value(node: ast.expr) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _value(node.operand)
        return -value if isinstance(node.op, ast.USub) else value
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left), _value(node.right)
        if isinstance(node.op, ast.Div | ast.Mod):  # towards zero, unlike Python's
            whole = abs(left) // abs(right) * (1 if left * right >= 0 else -1)
            return whole if isinstance(node.op, ast.Div) else left - whole * right
        if type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](left, right)
    raise ValueError(ast.dump(node))
