"""PyTorch's caching allocator on one stream, simulated: what it reserves and what is in use.

Requests of at most 1 MiB share segments of 2 MiB; those below 10 MiB are cut from segments
of 20 MiB, and larger ones get a segment of their own in steps of 2 MiB. A freed block joins
its free neighbours and is kept. A request takes the smallest free block that fits, and the rest
of that block stays free. No segment is ever given back: that happens only when memory runs out.
Source: c10/cuda/CUDACachingAllocator.cpp of PyTorch 2.10, with its default settings.
"""

import bisect
import itertools

MIB = 1 << 20
SMALLEST_BLOCK = 512
LARGEST_SMALL_REQUEST = MIB
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
SMALLEST_OWN_SEGMENT = 10 * MIB
SEGMENT_STEP = 2 * MIB


class Block:
    """A part of a segment; ``before`` and ``after`` are its neighbours there."""

    __slots__ = ("after", "before", "is_free", "is_small", "order", "size_bytes")

    def __init__(self, size_bytes: int, is_small: bool, order: tuple[int, int]) -> None:
        self.size_bytes, self.is_small, self.order = size_bytes, is_small, order
        self.is_free = False
        self.before: Block | None = None
        self.after: Block | None = None

    @property
    def key(self) -> tuple[int, tuple[int, int]]:
        """The order of blocks: by size, then by place (segment, and offset in bytes)."""
        return self.size_bytes, self.order


class CachingAllocator:
    """Counts the bytes of blocks in use (allocated) and of all segments (reserved)."""

    def __init__(self) -> None:
        self.allocated_bytes = self.peak_allocated_bytes = 0
        self.reserved_bytes = self.peak_reserved_bytes = 0
        self._free_blocks: dict[bool, list[Block]] = {True: [], False: []}
        self._segments = itertools.count()

    def allocate(self, size_bytes: int) -> Block:
        """A block of at least ``size_bytes``, which are more than 0."""
        rounded = _round_up(size_bytes, SMALLEST_BLOCK)
        is_small = rounded <= LARGEST_SMALL_REQUEST
        block = self._smallest_that_fits(rounded, is_small) or self._new_segment(rounded, is_small)
        self._split(block, rounded)
        block.is_free = False
        self.allocated_bytes += block.size_bytes
        self.peak_allocated_bytes = max(self.peak_allocated_bytes, self.allocated_bytes)
        return block

    def free(self, block: Block) -> None:
        """Puts ``block`` back, joined with the free blocks beside it."""
        self.allocated_bytes -= block.size_bytes
        if block.before is not None and block.before.is_free:
            self._take(block.before)
            block = _joined(block.before, block)
        if block.after is not None and block.after.is_free:
            self._take(block.after)
            block = _joined(block, block.after)
        self._put(block)

    def _smallest_that_fits(self, size_bytes: int, is_small: bool) -> Block | None:
        blocks = self._free_blocks[is_small]
        place = bisect.bisect_left(blocks, size_bytes, key=lambda block: block.size_bytes)
        return blocks.pop(place) if place < len(blocks) else None

    def _new_segment(self, size_bytes: int, is_small: bool) -> Block:
        if is_small:
            segment_bytes = SMALL_SEGMENT
        elif size_bytes < SMALLEST_OWN_SEGMENT:
            segment_bytes = LARGE_SEGMENT
        else:
            segment_bytes = _round_up(size_bytes, SEGMENT_STEP)
        self.reserved_bytes += segment_bytes
        self.peak_reserved_bytes = max(self.peak_reserved_bytes, self.reserved_bytes)
        return Block(segment_bytes, is_small, (next(self._segments), 0))

    def _split(self, block: Block, size_bytes: int) -> None:
        left_bytes = block.size_bytes - size_bytes
        if left_bytes < SMALLEST_BLOCK or (not block.is_small and left_bytes <= MIB):
            return
        segment, offset = block.order
        rest = Block(left_bytes, block.is_small, (segment, offset + size_bytes))
        rest.before, rest.after, block.after = block, block.after, rest
        if rest.after is not None:
            rest.after.before = rest
        block.size_bytes = size_bytes
        self._put(rest)

    def _put(self, block: Block) -> None:
        block.is_free = True
        bisect.insort(self._free_blocks[block.is_small], block, key=lambda block: block.key)

    def _take(self, block: Block) -> None:
        blocks = self._free_blocks[block.is_small]
        del blocks[bisect.bisect_left(blocks, block.key, key=lambda block: block.key)]


def _joined(first: Block, second: Block) -> Block:
    """``first``, extended by its neighbour ``second``."""
    first.size_bytes += second.size_bytes
    first.after = second.after
    if first.after is not None:
        first.after.before = first
    return first


def _round_up(count: int, step: int) -> int:
    return -(-count // step) * step
