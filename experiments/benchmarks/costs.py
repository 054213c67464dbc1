"""What a step of the contrast costs, as formulas, and what they say for large trainings.

    python experiments/benchmarks/costs.py

prints the table of README.md. ``ranks.py`` checks ``payload`` against the bytes that are really sent.
"""

from dataclasses import dataclass, replace

_FLOAT, _INTEGER = 4, 8


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """A step of W ranks, with all examples mined and a pixel queue only."""

    ranks: int
    """W"""
    anchors: int
    """A, of the global batch."""
    bank: int
    """N, rows over all ranks."""
    dim: int = 256
    """D"""
    most_anchors: int
    """Anchors of one rank, to which a gather is padded; A / W if they are spread evenly."""
    entries: int
    """Rows of this rank that enter the queue: at most (images of a rank) · classes · V."""
    most_entries: int
    """Those of the rank that has most."""
    proposals: int
    """Places for the pixels that one rank proposes as anchors: 75 per class with 50 anchors, half of them
    hard."""
    sharded: bool
    row_bytes: int = _FLOAT
    """Size of one number in the bank; 2 in bfloat16."""


def payload(sizes: Sizes) -> int:
    """Bytes that a rank hands to collectives in a step, forward and backward; 0 on one rank.

    An all-reduce is handed its tensor, an all-gather the rank's own padded rows, an all-to-all those for all.
    """
    if sizes.ranks == 1:
        return 0
    return sum(nbytes for _, nbytes in _collectives(sizes))


def wire(sizes: Sizes) -> float:
    """Bytes that a rank sends if gathers and reductions go around a ring, and exchanges straight."""
    others = sizes.ranks - 1
    factors = {"gather": others, "reduce": 2 * others / sizes.ranks, "exchange": others / sizes.ranks}
    return sum(factors[kind] * nbytes for kind, nbytes in _collectives(sizes))


def _collectives(sizes: Sizes) -> list[tuple[str, int]]:
    """Kind and payload of each."""
    row = sizes.dim * _FLOAT
    sent = [
        # class, pixel, hard and two keys of a proposal; the first position, labels out of range, entries
        ("gather", (sizes.proposals * 5 + 3) * _INTEGER),
        ("gather", sizes.most_anchors * row),
        ("reduce", sizes.anchors * row),  # the gather's backward
    ]
    if not sizes.sharded:
        sent.append(("gather", sizes.most_entries * (row + _INTEGER)))
    else:
        sent += [
            ("gather", sizes.most_entries * (_INTEGER + 1)),  # labels, and which rows are finite
            ("exchange", sizes.entries * sizes.dim * sizes.row_bytes),
            ("reduce", sizes.anchors * (row + _FLOAT)),  # of the negatives: pull and weight
            ("gather", sizes.most_anchors * _FLOAT),  # L
            ("reduce", sizes.anchors * (row + 3 * _FLOAT)),  # of the positives: also loss and number
        ]
    return sent


def flops(sizes: Sizes) -> float:
    """Operations of a rank's matrix products with the bank, backward included."""
    return 4 * sizes.anchors * sizes.bank * sizes.dim / sizes.ranks


def bank_bytes(sizes: Sizes) -> float:
    """Size of the rows on a rank."""
    return sizes.bank * sizes.dim * sizes.row_bytes / (sizes.ranks if sizes.sharded else 1)


def training(*, ranks: int, classes: int, num_images: int, most: int | None, sharded: bool) -> Sizes:
    """One image on every rank, every class in every image (the most there can be), T = 10 · images."""
    anchors = 50 * classes
    bank = 10 * num_images * classes if most is None else min(10 * num_images, most // classes) * classes
    return Sizes(
        ranks=ranks,
        anchors=anchors,
        bank=bank,
        most_anchors=-(-anchors // ranks),
        entries=10 * classes,
        most_entries=10 * classes,
        proposals=75 * classes,
        sharded=sharded,
    )


def main() -> None:
    """Print what the formulas say."""
    print("| data, bank | GPUs | TFLOP per rank | bank per rank: replicated, sharded | sent per rank: both |")
    print("|---|---|---|---|---|")
    for name, classes, num_images in (("Cityscapes", 19, 2_975), ("COCO-Stuff", 171, 118_287)):
        for most in (200_000, None):
            for ranks in (8, 64, 1024):
                full = training(ranks=ranks, classes=classes, num_images=num_images, most=most, sharded=False)
                part = replace(full, sharded=True)
                print(
                    f"| {name}, {full.bank:,} rows | {ranks} | {flops(full) / 1e12:.3g} "
                    f"| {_size(bank_bytes(full))}, {_size(bank_bytes(part))} "
                    f"| {_size(wire(full))}, {_size(wire(part))} |"
                )


def _size(nbytes: float) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"


if __name__ == "__main__":
    main()
