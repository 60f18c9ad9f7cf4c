"""Runs in a framework's own environment: command lines through its parser and configuration. Knows nothing of this
package."""

from __future__ import annotations

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import io
import json
import logging
import sys
import types
from pathlib import Path


class _Absent(types.ModuleType):
    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Absent(f"{self.__name__}.{name}")


class _Absence(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        return (
            importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] == "torchvision" else None
        )

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


def name_architectures(folder):
    """Gives configurations without ``architectures`` the usual one of their type, as checkpoints have it."""
    from transformers.models.auto import modeling_auto as auto

    known = {**auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, **auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    for path in folder.glob("*/config.json"):
        config = json.loads(path.read_text())
        usual = known.get(config["model_type"])
        if "architectures" not in config and usual:
            config["architectures"] = [usual if isinstance(usual, str) else usual[0]]
            path.write_text(json.dumps(config))


def vllm():
    sys.meta_path.append(_Absence())
    import vllm.platforms
    from vllm.platforms.cpu import CpuPlatform

    vllm.platforms._current_platform = CpuPlatform()
    import vllm.entrypoints.common.cli_args as cli
    import vllm.model_executor.models.registry as registry
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    registry._run_in_subprocess = lambda function: function()  # a child would not know of the platform

    def configure(arguments):
        arguments.model = arguments.model_tag or arguments.model
        AsyncEngineArgs.from_cli_args(arguments).create_engine_config(headless=bool(arguments.headless))

    return cli.make_arg_parser(FlexibleArgumentParser()), configure


CAPABILITY = 9, 0
"""Of the GPU that SGLang is told of: an H100, which the plans are for."""


def _as_on_a_gpu():
    """SGLang's own override of what it knows of the machine."""
    import torch
    from sglang.srt.runtime_context import override_platform

    torch.cuda.get_device_capability = lambda *_: CAPABILITY
    override_platform(is_cuda=True, is_sm90=True, device_sm=90, device_capability=CAPABILITY).install()


def sglang():
    sys.meta_path.append(_Absence())
    from sglang.srt.server_args import ServerArgs

    _as_on_a_gpu()
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_args(parser)

    def configure(arguments):
        arguments.device = "cpu"
        made = ServerArgs.from_cli_args(arguments)
        if hasattr(made, "resolve_once"):
            made.resolve_once()
        made.check_server_args()

    return parser, configure


def main():
    framework, folder = sys.argv[1], Path(sys.argv[2])
    sys.argv = [framework]
    parser, configure = {"vllm": vllm, "sglang": sglang}[framework]()
    name_architectures(folder / "models")
    logging.disable(logging.CRITICAL)
    with open(folder / "answers.jsonl", "w") as file:
        for line in (folder / "cases.jsonl").read_text().splitlines():
            case, said = json.loads(line), io.StringIO()
            answer = {"id": case["id"]}
            with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
                try:
                    arguments = parser.parse_args(case["argv"])
                except SystemExit:
                    answer["parser"] = (said.getvalue().strip().splitlines() or ["refused"])[-1]
                else:
                    try:
                        configure(arguments)
                    except BaseException as error:
                        answer["config"] = f"{type(error).__name__}: {error}"[:1000]
            file.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
