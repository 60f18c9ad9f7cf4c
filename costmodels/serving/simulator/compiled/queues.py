"""Parts of the compiled loop, and those that all others need: linked lists and heaps."""

from __future__ import annotations

from costmodels.native.compiling import compiled
from costmodels.serving.simulator.compiled.state import Array, State


@compiled
def push(s: State, where: int, request: int, front: bool) -> None:
    if s.lists[where].size == 0:
        s.lists[where].head = s.lists[where].tail = request
        s.requests[request].before = s.requests[request].after = -1
    elif front:
        s.requests[request].before, s.requests[request].after = -1, s.lists[where].head
        s.requests[s.lists[where].head].before = request
        s.lists[where].head = request
    else:
        s.requests[request].before, s.requests[request].after = s.lists[where].tail, -1
        s.requests[s.lists[where].tail].after = request
        s.lists[where].tail = request
    s.lists[where].size += 1


@compiled
def remove(s: State, where: int, request: int) -> None:
    before, after = s.requests[request].before, s.requests[request].after
    if before >= 0:
        s.requests[before].after = after
    else:
        s.lists[where].head = after
    if after >= 0:
        s.requests[after].before = before
    else:
        s.lists[where].tail = before
    s.lists[where].size -= 1


@compiled
def sift(keys: Array, items: Array, n: int, at: int) -> None:
    """Moves the entry ``at`` of a heap of ``n`` to its place, up or down; the smallest (key, item) comes first."""
    key, item = keys[at], items[at]
    while at > 0:
        up = (at - 1) // 2
        if keys[up] < key or (keys[up] == key and items[up] <= item):
            break
        keys[at], items[at] = keys[up], items[up]
        at = up
    while True:
        low = 2 * at + 1
        if low >= n:
            break
        if low + 1 < n and (keys[low + 1] < keys[low] or (keys[low + 1] == keys[low] and items[low + 1] < items[low])):
            low += 1
        if key < keys[low] or (key == keys[low] and item <= items[low]):
            break
        keys[at], items[at] = keys[low], items[low]
        at = low
    keys[at], items[at] = key, item


@compiled
def drop(keys: Array, items: Array, n: int, at: int) -> None:
    """Takes the entry ``at`` out of a heap of ``n``."""
    keys[at], items[at] = keys[n - 1], items[n - 1]
    if at < n - 1:
        sift(keys, items, n - 1, at)
