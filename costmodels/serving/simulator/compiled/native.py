"""The compiled loop as machine code, called with the addresses of arrays: a process that finds it kept on disk needs no
compiler, whose import alone would be a tenth of a plan's CPU time.

All that the loop is given is one block of values of eight bytes each, in the order of the fields: a number is itself,
an array its address and its lengths.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from costmodels.kernels.on_disk import cache_folder
from costmodels.serving.simulator.compiled.state import (
    BUSY,
    FULL,
    NOW,
    SAMPLED,
    STEPS,
    Array,
    Curve,
    Seen,
    Sent,
    Spec,
    State,
)
from profiles.whole_files import write_whole

Called = Callable[[ctypes.Array[ctypes.c_char]], int]

_SAMPLES = 64
"""That there is room for at first."""


def run(
    spec: Spec, through: Curve, slowest: Curve, asked: Sent, seen: Seen, s: State
) -> tuple[int, float, float, int, Array]:
    """(how it ended, when, µs in steps, steps, samples) and ``seen``."""
    samples, how = np.zeros((_SAMPLES, 8)), FULL
    while True:
        arguments = spec, through, slowest, asked, seen, s, samples
        values = list(_values(arguments))
        how = _loop(_form(values), arguments)(_block(values))
        taken = int(s.n[SAMPLED])
        if how != FULL:
            return how, float(s.clock[NOW]), float(s.clock[BUSY]), int(s.n[STEPS]), samples[:taken]
        samples = np.concatenate((samples, np.zeros_like(samples)))


def _values(given: object) -> Iterator[Any]:
    """The numbers and arrays of (named) tuples in each other."""
    if isinstance(given, tuple):
        for each in given:
            yield from _values(each)
    else:
        yield given


def _form(values: list[Any]) -> str:
    """What kinds of values they are: for each the loop is compiled anew. Of an array only its address and lengths are
    passed on, so its elements must lie one after the other.

    Raises:
        ValueError: those of an array do not.
    """
    if any(isinstance(each, np.ndarray) and not each.flags.c_contiguous for each in values):
        raise ValueError("the compiled loop takes arrays whose elements lie one after the other")
    return " ".join(
        f"{each.dtype.descr}{each.ndim}" if isinstance(each, np.ndarray) else type(each).__name__ for each in values
    )


def _block(values: list[Any]) -> ctypes.Array[ctypes.c_char]:
    parts: list[int | float] = []
    for value in values:
        parts += [value.ctypes.data, *value.shape] if isinstance(value, np.ndarray) else [value]
    kinds = "".join("d" if isinstance(part, float) else "q" for part in parts)
    return ctypes.create_string_buffer(struct.pack(kinds, *parts))


_loaded: dict[str, tuple[Called, object]] = {}
_loading = Lock()
"""A loop is loaded once: one put in the place of another would take its machine code from under those that run it."""


def _loop(form: str, arguments: tuple[Any, ...]) -> Called:
    """The loop for arguments of a ``form``: kept on disk, or compiled now."""
    with _loading:
        if form not in _loaded:
            _loaded[form] = _found(form, arguments)
        return _loaded[form][0]


def _found(form: str, arguments: tuple[Any, ...]) -> tuple[Called, object]:
    """And what it lives in."""
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    made_for = f"{_sources()} {form} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
    name = f"loop-{sha256(made_for.encode()).hexdigest()[:24]}.o"
    for folder in _folders():
        with suppress(OSError):
            if (kept := _intact((folder / name).read_bytes())) is not None:
                return _linked(*kept)
    from costmodels.serving.simulator.compiled.compiling import machine_code  # deferred: the compiler

    symbol, code = machine_code(arguments)
    _keep(name, symbol, code)
    return _linked(symbol, code)


def _sources() -> str:
    sources = b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))
    made_by = [f"{name} {version(name)}" for name in ("numba", "llvmlite", "numpy")]
    return f"{sha256(sources).hexdigest()} {platform.python_version()} {platform.platform()} {made_by}"


def _folders() -> list[Path]:
    """Where it may be kept: beside the code, else in the user's cache."""
    return [Path(__file__).parent / "__pycache__", cache_folder() / "simulator"]


def _keep(name: str, symbol: str, code: bytes) -> None:
    """Whole or not at all; where nothing can be kept, each process compiles."""
    content = symbol.encode() + b"\n" + code
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(folder / name, sha256(content).hexdigest().encode() + b"\n" + content, durable=False)
            return


def _intact(kept: bytes) -> tuple[str, bytes] | None:
    """(symbol, code) of what :func:`_keep` wrote; None where it is not that any more."""
    digest, _, content = kept.partition(b"\n")
    if sha256(content).hexdigest().encode() != digest:
        return None
    symbol, _, code = content.partition(b"\n")
    return symbol.decode(), code


def _linked(symbol: str, code: bytes) -> tuple[Called, object]:
    import llvmlite.binding as llvm

    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_char_p)(engine.get_function_address(symbol)), engine
