import torch

from pixelcontrast import draws


def splitmix64(state: int, mask: int = (1 << 64) - 1) -> int:
    z = (state + 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


def test_hash_is_splitmix64_in_a_chain() -> None:
    """Against exact integers, and with SplitMix64's published first output for seed 0."""
    assert splitmix64(0) == 0xE220A8397B1DCDAF
    for counters in [(0,), (1, 2, 3), (2**31, 7, 123_456_789)]:
        state = 0
        for counter in counters:
            state = splitmix64(state ^ counter)
        assert int(draws.hashed(*counters)) == state & ((1 << 63) - 1)


def test_a_draw_does_not_depend_on_what_is_drawn_beside_it() -> None:
    together = draws.hashed(5, torch.arange(4)[:, None], torch.arange(6))
    assert together.shape == (4, 6)
    assert together[2, 3] == draws.hashed(5, 2, 3)


def test_uniform_fills_the_unit_interval_evenly() -> None:
    values = draws.uniform(0, torch.arange(100_000))
    assert values.dtype == torch.float64
    assert values.min() >= 0
    assert values.max() < 1
    counts = torch.histc(values.float(), 10, 0, 1)
    assert (counts - 10_000).abs().max() < 5 * 9_000**0.5


def test_permutation_depends_on_its_counters() -> None:
    first = draws.permutation(100, 1, 2)
    assert torch.equal(first.sort().values, torch.arange(100))
    assert torch.equal(first, draws.permutation(100, 1, 2))
    assert not torch.equal(first, draws.permutation(100, 1, 3))
