"""A profile as a call tree, for the formats that write one.

A tree is built for one way of looking at frames: `key` says what makes two frames the same (a
label, a function) or, with None, that a frame is not shown. Nodes are numbered in the order in
which the samples first reach them, parents before children, so every walk is a loop.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from jsspy.model.names import NO_STACK, VM_KINDS, function_of
from jsspy.model.profile import Profile, ValueType
from jsspy.model.stack import Frame, FrameKind

K = TypeVar("K", bound=Hashable)

_NOT_VISITED = -2


def shown_function(frame: Frame) -> Frame | None:
    """Return the function of a frame, or None for V8's glue: the key of the modern formats."""
    return None if frame.kind in VM_KINDS else function_of(frame)


def sample_counts(profile: Profile) -> Sequence[int]:
    """Return how many samples each row of the sample columns stands for.

    That is 1 unless the profile was imported from counts.
    """
    if profile.meta.value_type is ValueType.SAMPLES:
        return profile.weight
    return array("q", [1]) * len(profile)


def proportional_counts(profile: Profile) -> tuple[Sequence[int], str]:
    """Return integers in proportion to the weights, and what they count.

    `samples` if all samples weigh the same, as people expect of a flame graph; otherwise the
    weights themselves, `ns`: a count of samples would then show false proportions.
    """
    counts = sample_counts(profile)
    if counts is profile.weight or len(set(profile.weight)) <= 1:
        return counts, "samples"
    return profile.weight, "ns"


def samples_by_thread(profile: Profile) -> dict[int, array[int]]:
    """Return the indexes of each thread's samples, in order of time; threads without any are not.

    Threads come by pid and tid.
    """
    samples: dict[int, array[int]] = {}
    for index, thread in enumerate(profile.thread):
        samples.setdefault(thread, array("i")).append(index)
    order = sorted(samples, key=lambda thread: profile.threads[thread][:2])
    return {thread: samples[thread] for thread in order}


def busiest_thread(profile: Profile) -> int:
    """Return the thread with the most weight in stacks that run JavaScript; -1 without samples.

    For formats that hold one thread: in a Node.js process that is the main thread or, if it mostly
    waits, the worker that does the work. Without JavaScript the most weight decides.
    """
    has_script = bytearray(len(profile.stacks))
    for row, (parent, frame) in enumerate(
        zip(profile.stacks.parent, profile.stacks.frame, strict=True)
    ):
        above = parent >= 0 and has_script[parent]
        has_script[row] = above or profile.frames[frame].kind is FrameKind.JS
    weights: dict[int, tuple[int, int]] = {}
    for row, thread, weight in zip(profile.stack, profile.thread, profile.weight, strict=True):
        script, every = weights.get(thread, (0, 0))
        weights[thread] = (script + weight * (row >= 0 and has_script[row]), every + weight)
    threads = sorted(weights, key=lambda thread: profile.threads[thread][:2])
    return max(threads, key=weights.__getitem__, default=-1)


class Tree(Generic[K]):
    """A call tree. Node i has parent `parent[i]` (-1 for a root) and key `keys[key[i]]`."""

    def __init__(
        self,
        profile: Profile,
        key: Callable[[Frame], K | None],
        values: Sequence[int],
        samples: Iterable[int] | None = None,
    ) -> None:
        """Build the tree.

        Args:
            profile: Its samples make the tree; rows that no sample reaches are left out.
            key: What makes two frames the same; None leaves a frame out. Called once per frame, and
                with NO_STACK where a sample shows no frame at all.
            values: One per sample.
            samples: Indexes of the samples to take; all by default.
        """
        self.keys: list[K] = []
        self.parent = array("i")
        self.key = array("i")
        self.own: list[int] = []
        """Value of the samples whose leaf the node is."""
        index: dict[K, int] = {}
        nodes: dict[tuple[int, int], int] = {}

        def key_index(frame: Frame) -> int:
            name = key(frame)
            if name is None:
                return -1
            if name not in index:
                index[name] = len(self.keys)
                self.keys.append(name)
            return index[name]

        def descend(parent: int, number: int) -> int:
            if number < 0:
                return parent
            node = nodes.get((parent, number))
            if node is None:
                node = nodes[parent, number] = len(self.parent)
                self.parent.append(parent)
                self.key.append(number)
                self.own.append(0)
            return node

        key_of_frame = [_NOT_VISITED] * len(profile.frames)
        self.node_of_row = array("i", [_NOT_VISITED]) * len(profile.stacks)
        """Row of the profile's stacks -> node; -1 if nothing of it is shown."""
        parents, frames, node_of_row = profile.stacks.parent, profile.stacks.frame, self.node_of_row
        self.node_of_sample = array("i")
        """Leaf nodes, in the order of the samples taken; -1 if nothing is shown."""
        pending: list[int] = []
        for sample in range(len(profile)) if samples is None else samples:
            up = profile.stack[sample]
            while up >= 0 and node_of_row[up] == _NOT_VISITED:
                pending.append(up)
                up = parents[up]
            node = node_of_row[up] if up >= 0 else -1
            while pending:
                down = pending.pop()
                frame = frames[down]
                if key_of_frame[frame] == _NOT_VISITED:
                    key_of_frame[frame] = key_index(profile.frames[frame])
                node = node_of_row[down] = descend(node, key_of_frame[frame])
            if node < 0:
                node = descend(-1, key_index(NO_STACK))
            if node >= 0:
                self.own[node] += values[sample]
            self.node_of_sample.append(node)

    def __len__(self) -> int:
        return len(self.parent)

    def totals(self) -> list[int]:
        """Return of each node its own value plus that of all below it."""
        total = self.own.copy()
        for node in range(len(self) - 1, -1, -1):
            parent = self.parent[node]
            if parent >= 0:
                total[parent] += total[node]
        return total

    def children(self, order: Callable[[K], Any] | None = None) -> list[list[int]]:
        """Return the children of each node; those of the roots' common parent come last.

        Args:
            order: Sort key; without it children come as they were first seen.
        """
        children: list[list[int]] = [[] for _ in range(len(self) + 1)]
        nodes: Sequence[int] = range(len(self))
        if order is not None:
            ranks = [order(key) for key in self.keys]
            nodes = sorted(nodes, key=lambda node: ranks[self.key[node]])
        for node in nodes:
            children[self.parent[node]].append(node)
        return children

    def walk(self, order: Callable[[K], Any] | None = None) -> Iterator[tuple[int, int]]:
        """Yield (node, depth) depth first, callers before callees; roots have depth 0.

        Args:
            order: As for `children`.
        """
        children = self.children(order)
        levels = [iter(children[-1])]
        while levels:
            node = next(levels[-1], -1)
            if node < 0:
                levels.pop()
                continue
            yield node, len(levels) - 1
            levels.append(iter(children[node]))

    def path(self, node: int) -> list[K]:
        """Return the keys from the root to a node."""
        path = []
        while node >= 0:
            path.append(self.keys[self.key[node]])
            node = self.parent[node]
        path.reverse()
        return path
