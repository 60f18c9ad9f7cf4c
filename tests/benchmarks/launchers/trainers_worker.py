"""Runs in an environment with torch: what training plans export, a JSON list of words a line, through the parser of
torchtitan or Megatron Bridge. Knows nothing of this package. ``python trainers_worker.py KIND``; what it answers of
each: the fields that it read, or why it refused."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import io
import json
import logging
import sys
import types
import warnings

ABSENT = ("tensorboard", "wandb", "transformer_engine", "apex")
"""Packages that are imported, and do nothing here: they log, or compute on a GPU."""


class _Anything(type):
    def __getattr__(cls, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Absent(types.ModuleType):
    __version__ = "0"

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name, (), {})


class _Absence(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        known = name.split(".")[0] in ABSENT or name.startswith("torch.utils.tensorboard")
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


def torchtitan():
    from torchtitan.config import ConfigManager

    def read(words):
        found = ConfigManager().parse_args(words)
        mesh, work = found.parallelism, found.training
        kept = found.activation_checkpoint
        mode = "none" if kept is None else getattr(kept, "mode", type(kept).__qualname__)
        return [
            mesh.tensor_parallel_degree,
            mesh.pipeline_parallel_degree,
            mesh.context_parallel_degree,
            mesh.expert_parallel_degree,
            work.local_batch_size,
            work.global_batch_size,
            work.seq_len,
            str(mode).split(".")[0].removesuffix("AC").casefold(),
        ]

    return read


def bridge():
    import megatron.core.transformer.module  # noqa: F401  (its imports go round in another order)
    from megatron.bridge.models import Llama3ModelProvider8B
    from megatron.bridge.training import config
    from megatron.bridge.training.utils.omegaconf_utils import (
        apply_overrides,
        create_omegaconf_dict_config,
        parse_hydra_overrides,
    )
    from omegaconf import OmegaConf

    def recipe():
        dataset = {"reset_attention_mask": False, "reset_position_ids": False, "eod_mask_loss": False}
        return config.ConfigContainer(
            model=Llama3ModelProvider8B(),
            train=config.TrainingConfig(),
            optimizer=config.OptimizerConfig(),
            scheduler=config.SchedulerConfig(),
            dataset=config.MockGPTDatasetConfig(random_seed=1, seq_length=4096, **dataset),
            logger=config.LoggerConfig(),
            tokenizer=config.TokenizerConfig(),
            checkpoint=config.CheckpointConfig(),
            comm_overlap=config.CommOverlapConfig(tp_comm_overlap=False),
            mixed_precision="bf16_mixed",
        )

    def read(words):
        made = recipe()
        known, excluded = create_omegaconf_dict_config(made)
        told = parse_hydra_overrides(known, words)
        apply_overrides(made, OmegaConf.to_container(told, resolve=True), excluded)
        model, train = made.model, made.train
        return [
            model.tensor_model_parallel_size,
            model.pipeline_model_parallel_size,
            model.context_parallel_size,
            model.expert_model_parallel_size,
            train.micro_batch_size,
            train.global_batch_size,
            model.seq_length,
            model.recompute_granularity,
        ]

    return read


def main():
    sys.meta_path.insert(0, _Absence())
    kind, *packages = sys.argv[1:]
    sys.argv = [kind]
    sys.path[:0] = packages
    lines, answers = sys.stdin.read().splitlines(), []
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        read = {"torchtitan": torchtitan, "bridge": bridge}[kind]()
        logging.disable(logging.CRITICAL)
        for line in lines:
            said.truncate(0)
            try:
                answers.append(read(json.loads(line)))
            except SystemExit:
                answers.append((said.getvalue().strip() or "refused")[-300:])
            except Exception as error:
                answers.append(f"{type(error).__name__}: {error}"[:300])
    for answer in answers:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
