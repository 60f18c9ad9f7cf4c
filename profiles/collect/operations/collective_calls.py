"""What a rank does: the collectives themselves, their check and their timing. Runs in rank processes only.

``message_bytes`` is the full buffer of one rank, input or output, the larger:

=================  =======================  =======================
kind               input of a rank          output of a rank
=================  =======================  =======================
all_reduce         message                  message (in place)
all_gather         message / ranks          message
reduce_scatter     message                  message / ranks
all_to_all         message                  message
send_recv          message (rank 0)         message (rank 1)
=================  =======================  =======================
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": torch.int8}


class Call:
    """Buffers of one collective on one rank, and the call."""

    def __init__(self, kind: str, dtype: str, message_bytes: int, rank: int, size: int, device: torch.device) -> None:
        self.kind, self.rank, self.size = kind, rank, size
        element = DTYPES[dtype]
        count = message_bytes // element.itemsize
        sent = count // size if kind == "all_gather" else count
        received = count // size if kind == "reduce_scatter" else count
        if element == torch.int8:
            self.input = torch.randint(-2, 3, (sent,), dtype=element, device=device)
        else:
            self.input = torch.randn(sent, device=device).to(element)
        in_place = kind in ("all_reduce", "send_recv")
        self.output = self.input if in_place else torch.empty(received, dtype=element, device=device)

    def run(self) -> None:
        match self.kind:
            case "all_reduce":
                dist.all_reduce(self.input)
            case "all_gather":
                dist.all_gather_into_tensor(self.output, self.input)
            case "reduce_scatter":
                dist.reduce_scatter_tensor(self.output, self.input)
            case "all_to_all":
                dist.all_to_all_single(self.output, self.input)
            case "send_recv" if self.rank == 0:
                dist.send(self.input, 1)
            case "send_recv":
                dist.recv(self.output, 0)
            case _:
                raise ValueError(f"collective {self.kind!r} is not known")

    def right(self) -> bool:
        """Runs on known small numbers: chunk j of rank r holds r + 2·j (mod 5), exact in every precision."""
        chunks = self.size if self.kind in ("reduce_scatter", "all_to_all") else 1
        of = [[(rank + 2 * chunk) % 5 for chunk in range(chunks)] for rank in range(self.size)]
        self._fill(self.input, of[self.rank])
        self.run()
        match self.kind:
            case "all_reduce":
                expected = [sum(rank[0] for rank in of)]
            case "all_gather":
                expected = [rank[0] for rank in of]
            case "reduce_scatter":
                expected = [sum(rank[self.rank] for rank in of)]
            case "all_to_all":
                expected = [rank[self.rank] for rank in of]
            case _:
                expected = of[0]
        wanted = torch.empty_like(self.output)
        self._fill(wanted, expected)
        return bool(torch.equal(self.output, wanted))

    @staticmethod
    def _fill(tensor: torch.Tensor, values: list[int]) -> None:
        tensor.view(len(values), -1).copy_(torch.tensor(values, dtype=tensor.dtype).view(-1, 1))


class Rank:
    """A member of the process group; :meth:`do` obeys commands."""

    def __init__(
        self, rank: int, size: int, backend: str, device: int | None, store: str, threads: int, timeout_s: float
    ) -> None:
        self.rank, self.size = rank, size
        self.device = torch.device("cpu") if device is None else torch.device("cuda", device)
        if device is None:
            torch.set_num_threads(threads)
            self.version = str(torch.__version__)  # gloo has none of its own: torch carries it
        else:
            torch.cuda.set_device(device)
            version = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
            self.version = ".".join(map(str, version))
        dist.init_process_group(
            backend,
            init_method=f"file://{store}",
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
        )
        dist.all_reduce(torch.ones(1, device=self.device))  # communicators are made at the first call
        self._call: Call | None = None
        self._graph: tuple[int, Any] | None = None
        self._graphs = False

    def do(self, command: dict[str, Any]) -> dict[str, Any]:
        """The answer to ``command``; raises whatever torch raises."""
        match command["do"]:
            case "setup":
                return self._setup(command["kind"], command["dtype"], command["message_bytes"])
            case "check":
                call = Call(
                    command["kind"], command["dtype"], command["message_bytes"], self.rank, self.size, self.device
                )
                return {"right": call.right()}
            case "time":
                return {"us": self._time(command["repeats"], command["runs"])}
            case "run":
                self._prepared().run()
                return {}
            case "drop":
                self._call = self._graph = None
                return {}
        raise ValueError(f"command {command['do']!r} is not known")

    def _prepared(self) -> Call:
        if self._call is None:
            raise RuntimeError("no collective is set up")
        return self._call

    def _setup(self, kind: str, dtype: str, message_bytes: int) -> dict[str, Any]:
        self._call = self._graph = None  # before the next buffers are made: both might not fit
        self._call = Call(kind, dtype, message_bytes, self.rank, self.size, self.device)
        self._call.run()
        self._graphs = self.device.type == "cuda" and self._captures(1)
        return {"graphs": self._graphs}

    def _captures(self, runs: int) -> bool:
        """Captures ``runs`` calls; whether NCCL and the driver let it."""
        call = self._prepared()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: NCCL's watchdog may go on asking CUDA from its own thread.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for _ in range(runs):
                    call.run()
        except RuntimeError:
            self._graph = None
            return False
        self._graph = (runs, graph)
        return True

    def _time(self, repeats: int, runs: int) -> list[float]:
        return self._time_on_gpu(repeats, runs) if self.device.type == "cuda" else self._time_on_cpu(repeats, runs)

    def _time_on_cpu(self, repeats: int, runs: int) -> list[float]:
        call, samples = self._prepared(), []
        for _ in range(repeats):
            dist.barrier()
            began = time.perf_counter_ns()
            for _ in range(runs):
                call.run()
            samples.append((time.perf_counter_ns() - began) / 1e3 / runs)
        return samples

    def _time_on_gpu(self, repeats: int, runs: int) -> list[float]:
        """An all-reduce of one number lines the GPUs up before each repeat; as nothing waits for the host in
        between, the host is ahead and its launches are not timed."""
        if self._graphs and (self._graph is None or self._graph[0] != runs):
            self._captures(runs)
        call, flag = self._prepared(), torch.ones(1, device=self.device)

        def once() -> None:
            for _ in range(runs):
                call.run()

        work: Callable[[], None] = self._graph[1].replay if self._graphs and self._graph else once
        pairs = [(_event(), _event()) for _ in range(repeats)]
        for start, end in pairs:
            dist.all_reduce(flag)
            start.record()
            work()
            end.record()
        torch.cuda.synchronize()
        return [start.elapsed_time(end) * 1e3 / runs for start, end in pairs]


def _event() -> Any:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
