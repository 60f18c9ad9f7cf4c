"""The compiler's part: a loop as a function of the block of values that :mod:`costmodels.native.kept` makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numba.extending
from llvmlite import ir
from numba import types
from numba.np import arrayobj

untyped: Any = numba
populate_array: Any = arrayobj.populate_array


_Function = TypeVar("_Function", bound=Callable[..., Any])

_PART: dict[str, Any] = {
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,
}
"""Parts are copied into the loop: passing its arrays to them would count and copy them, at fifty times the cost."""


def compiled(function: _Function) -> _Function:
    """A part of a loop, which alone calls it. It allocates nothing."""
    part: _Function = untyped.njit(**_PART)(function)
    return part


def machine_code(loop: Callable[..., int], arguments: tuple[Any, ...]) -> tuple[str, bytes]:
    """(name of the function, object code) of ``loop``, a :func:`compiled` function, for ``arguments`` of these types.
    It needs nothing from outside: it allocates nothing and raises nothing."""
    kinds = untyped.typeof(arguments)

    @untyped.extending.intrinsic  # type: ignore[untyped-decorator]
    def unpacked(context: Any, block: Any) -> Any:
        return kinds(block), _unpacking

    @untyped.cfunc(types.int64(types.voidptr), _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
    def called(block: Any) -> Any:
        return loop(*unpacked(block))

    made: Any = called
    return made.native_name, made._library._get_compiled_object()


def _unpacking(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    values = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
    at = 0

    def taken(kind: Any) -> Any:
        """The next value of the block, as so many bits of the type."""
        nonlocal at
        place = builder.gep(values, [ir.Constant(ir.IntType(64), at)])
        at += 1
        return builder.load(builder.bitcast(place, kind.as_pointer()))

    def made(kind: Any) -> Any:
        if hasattr(kind, "types"):  # a tuple
            return context.make_tuple(builder, kind, [made(each) for each in kind.types])
        if not isinstance(kind, types.Array):
            if isinstance(kind, types.Boolean):
                return context.cast(builder, taken(ir.IntType(64)), types.int64, kind)
            return taken(context.get_value_type(kind))
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(taken(ir.IntType(64)), array.data.type)
        size = context.get_constant(types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
        shape, step = [taken(ir.IntType(64)) for _ in range(kind.ndim)], size
        strides: list[Any] = []
        for length in reversed(shape):
            strides.insert(0, step)
            step = builder.mul(step, length)
        populate_array(array, data=data, shape=shape, strides=strides, itemsize=size, meminfo=None)
        return array._getvalue()

    return made(signature.return_type)
