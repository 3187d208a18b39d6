"""The simulated allocator does what PyTorch's does with the same requests."""

import random

from reproduce.in_torch.caching_allocator import CachingAllocator

MIB = 1 << 20


def test_small_requests_share_a_segment_of_2_mib():
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.allocate(MIB // 2)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (2 * MIB, 2 * MIB)
    allocator.allocate(1)
    assert (allocator.allocated_bytes, allocator.reserved_bytes) == (2 * MIB + 512, 4 * MIB)


def test_middle_requests_are_cut_from_segments_of_20_mib():
    allocator = CachingAllocator()
    for _ in range(4):
        allocator.allocate(5 * MIB)
    assert allocator.reserved_bytes == 20 * MIB
    allocator.allocate(5 * MIB)
    assert allocator.reserved_bytes == 40 * MIB


def test_large_requests_get_a_segment_of_their_own_in_steps_of_2_mib():
    allocator = CachingAllocator()
    allocator.allocate(11 * MIB)
    assert allocator.reserved_bytes == 12 * MIB


def test_a_large_block_is_split_only_if_more_than_1_mib_is_left():
    allocator = CachingAllocator()
    block = allocator.allocate(19 * MIB + 1)
    assert block.size_bytes == 20 * MIB
    allocator.free(block)
    assert allocator.allocate(18 * MIB).size_bytes == 18 * MIB


def test_the_smallest_free_block_that_fits_is_used_again():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(size * MIB) for size in (40, 20, 30)]
    for block in blocks:
        allocator.free(block)
    assert allocator.allocate(19 * MIB) is blocks[1]
    assert allocator.reserved_bytes == 90 * MIB


def test_neighbours_that_are_free_are_joined():
    allocator = CachingAllocator()
    blocks = [allocator.allocate(5 * MIB) for _ in range(4)]
    for block in (blocks[1], blocks[2]):
        allocator.free(block)
    allocator.allocate(10 * MIB - 512)
    assert allocator.reserved_bytes == 20 * MIB


def test_the_reserve_never_falls_and_never_is_below_what_is_allocated():
    rng, allocator, blocks = random.Random(0), CachingAllocator(), []
    before = 0
    for _ in range(3000):
        if blocks and rng.random() < 0.5:
            allocator.free(blocks.pop(rng.randrange(len(blocks))))
        else:
            blocks.append(allocator.allocate(int(2 ** rng.uniform(0, 26))))
        assert allocator.allocated_bytes == sum(block.size_bytes for block in blocks)
        assert allocator.reserved_bytes >= max(before, allocator.allocated_bytes)
        before = allocator.reserved_bytes
    assert allocator.peak_reserved_bytes == allocator.reserved_bytes


def test_all_that_is_free_is_one_block_a_segment_when_nothing_is_in_use():
    rng, allocator = random.Random(1), CachingAllocator()
    blocks = [allocator.allocate(rng.randrange(1, 8 * MIB)) for _ in range(200)]
    rng.shuffle(blocks)
    for block in blocks:
        allocator.free(block)
    free = [block for blocks in allocator._free_blocks.values() for block in blocks]
    assert sum(block.size_bytes for block in free) == allocator.reserved_bytes
    assert len(free) == len({block.order[0] for block in free})
