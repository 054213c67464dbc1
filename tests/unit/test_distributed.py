import pytest
import torch

from pixelcontrast import distributed
from processes import run_ranks


def collectives(rank: int, world_size: int) -> dict[str, torch.Tensor]:
    rows = (torch.arange(2 * rank, dtype=torch.float64).reshape(rank, 2) + 10 * rank).requires_grad_()
    gathered = distributed.all_gather_rows(rows, counts=list(range(world_size)))
    # Every rank weighs every row differently: rank r multiplies by r + 1.
    (gathered.square().sum() * (rank + 1)).backward()
    value = torch.tensor([1.0 + rank], dtype=torch.float64, requires_grad=True)
    total = distributed.all_reduce(value)
    assert not total.requires_grad
    assert rows.grad is not None
    return {
        "rows": rows.detach(),
        "gathered": gathered.detach(),
        "rows_grad": rows.grad,
        "total": total,
        "small": distributed.sum_small(torch.full((2, 3), 0.1 + rank)),
        "object": torch.tensor(distributed.broadcast_object({"rank": rank})["rank"]),
        "objects": torch.tensor([box["rank"] for box in distributed.gather_objects({"rank": rank})]),
        "empty": distributed.all_gather_rows(torch.zeros(0, 3), counts=[0] * world_size),
        "exchanged": distributed.exchange_rows(
            torch.arange(world_size)[:, None] + 10 * rank, [1] * world_size, [1] * world_size
        ),
        "table": torch.cat(
            [
                part.double().view(-1, 1)
                for part in distributed.all_gather_tables(
                    [torch.tensor([rank == 1]), torch.tensor([rank])], counts=[1] * world_size
                )
            ]
        ),
    }


@pytest.mark.parametrize("world_size", [1, 3])
def test_collectives_and_their_gradients(world_size: int) -> None:
    ranks = [collectives(0, 1)] if world_size == 1 else run_ranks(world_size, collectives)
    weights = sum(range(1, world_size + 1))
    everything = torch.cat([rank["rows"] for rank in ranks])
    total = sum(1.0 + rank for rank in range(world_size))
    for number, rank in enumerate(ranks):
        assert rank["exchanged"].flatten().tolist() == [10 * other + number for other in range(world_size)]
        assert torch.equal(rank["gathered"], everything)
        torch.testing.assert_close(rank["rows_grad"], 2 * rank["rows"] * weights)
        assert rank["total"] == total
        assert torch.equal(rank["small"], ranks[0]["small"])
        torch.testing.assert_close(rank["small"], torch.full((2, 3), total - 0.9 * world_size))
        assert rank["object"] == 0
        assert rank["objects"].tolist() == list(range(world_size))
        assert rank["empty"].shape == (0, 3)
        assert rank["table"].flatten().tolist() == [r == 1 for r in range(world_size)] + list(
            range(world_size)
        )


def vote(rank: int, world_size: int) -> list[bool]:
    voting = distributed.Vote()
    return [voting.cast(rank == world_size - 1 and call == 2) for call in range(5)]


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_a_vote_is_known_to_all_one_call_later(world_size: int) -> None:
    votes = [vote(0, 1)] if world_size == 1 else run_ranks(world_size, vote)
    assert votes == [[False, False, False, True, False]] * world_size
