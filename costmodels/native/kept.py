"""Compiled loops as machine code, called with the addresses of arrays: a process that finds one kept on disk needs no
compiler, whose import alone would be a tenth of a plan's CPU time. While it runs other threads do.

All that a loop is given is one block of values of eight bytes each, in the order of the fields: a number is itself,
an array its address and its lengths.
"""

from __future__ import annotations

import ctypes
import platform
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from costmodels.kernels.on_disk import cache_folder
from profiles.whole_files import write_whole

Called = Callable[[ctypes.Array[ctypes.c_char]], int]


class Loop:
    """A loop that is compiled once for each form of its arguments, and kept.

    Args:
        name: of the files that it is kept in.
        sources: what it is made of, beside this folder: changed, it is compiled anew.
        function: gives it, marked as :func:`costmodels.native.compiling.compiled`; asked only where it is compiled.
    """

    def __init__(self, name: str, sources: Sequence[Path], function: Callable[[], Callable[..., int]]) -> None:
        self.name, self._sources, self._function = name, sorted(sources), function
        self._loaded: dict[str, tuple[Called, object]] = {}
        # It is loaded once: one put in the place of another would take its machine code from under those that run it.
        self._loading = Lock()

    def __call__(self, *arguments: Any) -> int:
        """Runs it on numbers, arrays and (named) tuples of them in each other."""
        values = list(_values(arguments))
        return self._for(_form(values), arguments)(_block(values))

    def _for(self, form: str, arguments: tuple[Any, ...]) -> Called:
        """For arguments of a ``form``: kept on disk, or compiled now."""
        with self._loading:
            if form not in self._loaded:
                self._loaded[form] = self._found(form, arguments)
            return self._loaded[form][0]

    def _found(self, form: str, arguments: tuple[Any, ...]) -> tuple[Called, object]:
        """And what it lives in."""
        import llvmlite.binding as llvm

        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        made_for = f"{self._made_of()} {form} {llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"
        name = f"{self.name}-{sha256(made_for.encode()).hexdigest()[:24]}.o"
        for folder in self._folders():
            with suppress(OSError):
                if (kept := _intact((folder / name).read_bytes())) is not None:
                    return _linked(*kept)
        from costmodels.native.compiling import machine_code  # deferred: the compiler

        symbol, code = machine_code(self._function(), arguments)
        _keep(self._folders(), name, symbol, code)
        return _linked(symbol, code)

    def _made_of(self) -> str:
        files = (*self._sources, *sorted(Path(__file__).parent.glob("*.py")))
        made_by = [f"{name} {version(name)}" for name in ("numba", "llvmlite", "numpy")]
        sources = sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        return f"{sources} {platform.python_version()} {platform.platform()} {made_by}"

    def _folders(self) -> list[Path]:
        """Where it may be kept: beside the code, else in the user's cache."""
        return [self._sources[0].parent / "__pycache__", cache_folder() / "native"]


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
        f"{each.dtype.descr if each.dtype.names else each.dtype.str}{each.ndim}"
        if isinstance(each, np.ndarray)
        else type(each).__name__
        for each in values
    )


def _block(values: list[Any]) -> ctypes.Array[ctypes.c_char]:
    parts: list[int | float] = []
    for value in values:
        parts += [value.__array_interface__["data"][0], *value.shape] if isinstance(value, np.ndarray) else [value]
    kinds = "".join("d" if isinstance(part, float) else "q" for part in parts)
    return ctypes.create_string_buffer(struct.pack(kinds, *parts))


def _keep(folders: Sequence[Path], name: str, symbol: str, code: bytes) -> None:
    """In the first that takes it, whole or not at all; where nothing can be kept, each process compiles."""
    content = symbol.encode() + b"\n" + code
    for folder in folders:
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
