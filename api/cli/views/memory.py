"""The view of ``plan memory``."""

from __future__ import annotations

from rich.console import Console
from rich.text import Text

from api.cli.console import bullet, heading, indented, table
from api.cli.views.quantities import gib
from planner.serving.memory_document import MemoryDocument

PARTS = {
    "weights_bytes": "weights",
    "activation_bytes": "activations",
    "other_bytes": "communication and libraries",
    "graph_bytes": "graphs",
    "kv_cache_bytes": "KV cache",
}


def show(document: MemoryDocument, out: Console, engine: str = "") -> None:
    """Prints the answer, the parts and what fits; ``engine``: which one it is, where there are several."""
    heading(
        out, f"{engine}{document.framework} {document.version}: {'starts' if document.starts else 'does not start'}"
    )
    for reason in document.reasons:
        indented(out, Text(reason))
    rows = table("of each GPU", "GiB")
    for field, label in PARTS.items():
        rows.add_row(label, gib(getattr(document.memory, field)))
    indented(out, rows)
    memory, largest = document.memory, document.largest
    if (held := memory.kv_cache_sequences) is not None:
        out.print(f"  cache         {held:,} sequences ({memory.logged_kv_tokens:,} tokens in the engine's log)")
        state = max(memory.kv_cache_bytes, 0) / max(held, 1)
        out.print(f"  per sequence  {state / 2**20:,.1f} MiB on each GPU, whatever its length")
    else:
        logged = f"{memory.logged_kv_tokens:,} in the engine's log"
        out.print(f"  cache         {memory.kv_cache_tokens:,} tokens ({logged})")
        out.print(f"  per token     {memory.kv_bytes_per_token / 1024:,.1f} KiB on each GPU")
        out.print(f"  requests      {largest.concurrency:,.2f} of the longest length at once")
    out.print(f"  longest       {largest.context_tokens:,} tokens of one request alone")
    if largest.workload_requests is not None:
        out.print(f"  workload      {largest.workload_requests:,.1f} of its requests at once")
    for note in document.notes:
        bullet(out, note)
