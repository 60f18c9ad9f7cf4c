"""Runs in a framework's own environment: workers' arguments, a JSON list a line, through the parser of Dynamo's worker.
Knows nothing of this package. ``python graphs_worker.py FRAMEWORK SITE_PACKAGES_OF_DYNAMO``."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.abc
import importlib.machinery
import inspect
import io
import json
import logging
import sys
import types
from pathlib import Path


class _Field:
    default = 1


class _TensorRT(types.ModuleType):
    """What of tensorrt_llm, which is on no index, Dynamo's parser takes its defaults from."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"model_fields": collections.defaultdict(_Field)})


class _Absence(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        known = name.split(".")[0] == "tensorrt_llm"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec):
        return _TensorRT(spec.name)

    def exec_module(self, module):
        pass


def vllm():
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()
    from dynamo.vllm import args

    return args.parse_args, ()


def sglang():
    sys.path.insert(0, str(Path(__file__).parent))
    import worker

    worker.sglang()
    gateway = types.ModuleType("dynamo.sglang.gateway")  # needs the whole server; asked here for a number alone
    gateway.effective_gateway_workers = lambda *_, **__: 1
    sys.modules[gateway.__name__] = gateway
    from dynamo.sglang import args

    return args.parse_args, ("--device", "cpu")


def trtllm():
    sys.meta_path.append(_Absence())
    from dynamo.trtllm import args

    return args.parse_args, ()


def main():
    framework, packages = sys.argv[1:]
    sys.argv = [framework]
    sys.path.append(packages)
    lines = sys.stdin.read().splitlines()
    answers = []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        parse, more = {"vllm": vllm, "sglang": sglang, "trtllm": trtllm}[framework]()
        logging.disable(logging.CRITICAL)
        for line in lines:
            said.truncate(0)
            try:
                found = parse([*json.loads(line), *more])
                if inspect.isawaitable(found):
                    asyncio.run(found)
                answers.append("")
            except SystemExit:
                answers.append((said.getvalue().strip().splitlines() or ["refused"])[-1])
            except Exception as error:
                answers.append(f"{type(error).__name__}: {error}")
    for answer in answers:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
