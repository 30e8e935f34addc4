"""The memory of real processes, with words that are wrong: naming ends, soon, with some answer.

Taken from Node of several lines while functions of all tiers, inlined ones, RegExps and WebAssembly
run; then words that naming reads are replaced by what is worst for pointers, lengths and links.
"""

from __future__ import annotations

import os
import resource
import struct
import time
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nodes
from jsspy.model.capture import StackSnapshot
from jsspy.model.sample import LossReason, RawSample, Sample
from jsspy.model.units import Address
from jsspy.target.memory import PAGE_BYTES, RecordedMemory
from recorded import Image, record_image

VERSIONS = ("10.24.1", "20.20.2", "26.10.0")
SAMPLES = 8
EXAMPLES = int(os.environ.get("JSSPY_EXAMPLES", "60"))
MOST_READS = 20
"""How many times as many reads as without mutations may be made of a sample, and bytes read."""
LEAST_READS = 20_000
LEAST_BYTES = 64 << 20
MOST_CPU_S = 10.0
"""For a few samples, which take a hundredth of a second as they are."""
MOST_GROWTH_KIB = 256 << 10


class CountedMemory(RecordedMemory):
    """Memory of an image that counts."""

    def __init__(self, pages: dict[int, bytes]) -> None:
        super().__init__(pages)
        self.count = self.size = 0

    def read(self, address: Address, size: int) -> bytes:
        """Return exactly `size` bytes; see `Memory`."""
        self.count += 1
        data = super().read(address, size)
        self.size += size
        return data


@cache
def image_of(version: str) -> Image:
    with nodes.running(version, nodes.TARGETS / "images.js") as target:
        return record_image(target.pid, SAMPLES)


def words_of(image: Image) -> list[int]:
    """Return the addresses of words that naming reads: all of small objects, some of large ones."""
    found = set()
    for address, size in image.reads:
        first = address & ~7
        found |= set(range(first, address + min(size, 128), 8))
    return sorted(at for at in found if at - at % PAGE_BYTES in image.pages)


def resolve(image: Image, raws: Sequence[RawSample], pages: dict[int, bytes]) -> CountedMemory:
    """Name samples; every one of them ends as a stack or as a loss."""
    memory = CountedMemory(pages)
    resolver = image.resolver(memory)
    start, size = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for raw in raws:
        result = resolver.resolve(raw)
        if isinstance(result, Sample):
            assert result.stack.frames
            assert all(len(frame.name) < 1 << 16 for frame in result.stack.frames)
        else:
            assert result is LossReason.UNRESOLVED
    assert time.process_time() - start < MOST_CPU_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - size < MOST_GROWTH_KIB
    return memory


WORST = (0, 1, (1 << 64) - 1, 1 << 63, 0x7FFF_FFFF_0000_0000, 0xFFFF_FFFF, 1 << 47, 0x4141_4141)
COPY = 3
Mutation = tuple[int, int, int]
"""Which word, what kind of change, and by what."""

mutations = st.lists(
    st.tuples(st.integers(0, 1 << 30), st.integers(0, 4), st.integers(0, (1 << 64) - 1)),
    min_size=1,
    max_size=40,
)


def changed(
    word: int, kind: int, argument: int, address: int, words: Sequence[int], pages: dict[int, bytes]
) -> int:
    """Return what is to stand in the place of a word."""
    match kind:
        case 0:
            return argument
        case 1:
            return WORST[argument % len(WORST)]
        case 2:  # itself: a cycle
            return address | 1
        case 3:  # COPY: what stands elsewhere: a believable object of another type
            other = words[argument % len(words)]
            return word_at(pages, other)
        case _:
            return word ^ 1 << argument % 64


def word_at(pages: dict[int, bytes], address: int) -> int:
    at = address % PAGE_BYTES
    return int.from_bytes(pages[address - at][at : at + 8], "little")


@pytest.mark.parametrize("version", nodes.selected(VERSIONS))
def test_an_image_is_named_like_the_process(version: str) -> None:
    image = image_of(version)
    resolver = image.resolver()
    results = [resolver.resolve(raw) for raw in image.raws]
    samples = [result for result in results if isinstance(result, Sample)]
    assert len(samples) == len(image.raws)
    assert resolver.js_frames_named == resolver.js_frames
    assert all(sample.stack.truncated is None for sample in samples)
    names = {frame.name for sample in samples for frame in sample.stack.frames}
    assert "work" in names


@pytest.mark.parametrize("version", nodes.selected(VERSIONS))
def test_mutated_memory_is_named_in_bounded_steps(version: str) -> None:
    image = image_of(version)
    words = words_of(image)
    plain = resolve(image, image.raws, image.pages)
    most_reads = max(LEAST_READS, MOST_READS * plain.count)
    most_bytes = max(LEAST_BYTES, MOST_READS * plain.size)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(mutations)
    def run(plan: list[Mutation]) -> None:
        pages = dict(image.pages)
        for index, kind, argument in plan:
            address = words[index % len(words)]
            page, at = address - address % PAGE_BYTES, address % PAGE_BYTES
            word = changed(word_at(pages, address), kind, argument, address, words, image.pages)
            data = pages[page]
            pages[page] = data[:at] + struct.pack("<Q", word) + data[at + 8 :]
        memory = resolve(image, image.raws[:3], pages)
        assert memory.count <= most_reads
        assert memory.size <= most_bytes

    run()


@pytest.mark.parametrize("version", nodes.selected(VERSIONS))
def test_mutated_stacks_are_named_in_bounded_steps(version: str) -> None:
    image = image_of(version)
    plain = resolve(image, image.raws, image.pages)

    @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, SAMPLES - 1), mutations)
    def run(which: int, plan: list[Mutation]) -> None:
        raw = image.raws[which]
        assert isinstance(raw.capture, StackSnapshot)
        stack = bytearray(raw.capture.stack)
        words = range(0, len(stack) - 7, 8)
        for index, kind, argument in plan:
            # Most of it is near the leaf.
            at = words[min(index % len(words), argument % len(words))]
            address = raw.capture.stack_start + at
            word = int.from_bytes(stack[at : at + 8], "little")
            other = words[argument % len(words)]
            new = int.from_bytes(stack[other : other + 8], "little")
            if kind != COPY:
                new = changed(word, kind, argument, address, words, {})
            stack[at : at + 8] = new.to_bytes(8, "little")
        mutated = raw._replace(capture=raw.capture._replace(stack=bytes(stack)))
        memory = resolve(image, [mutated], image.pages)
        assert memory.count <= max(LEAST_READS, MOST_READS * plain.count)
        assert memory.size <= max(LEAST_BYTES, MOST_READS * plain.size)

    run()
