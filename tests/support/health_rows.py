"""Training rows with the health of the embedding, as a run with contrast reports them, made up."""

from typing import Any

Row = dict[str, Any]


def row(step: int, *, gap: float | None = 0.3, norm: float | None = 0.6, **others: Any) -> Row:
    """A row whose figures are healthy, but for those given."""
    usual = {"kind": "train", "step": step, "steps": 1000, "attempt": 1, "time": 1e9 + step}
    usual |= {"loss": 2.0, "ce": 1.0, "contrast": 5.0, "gradient_norm": 1.0, "lr": 0.01}
    usual |= {"images_per_second": 10.0, "hard_anchors": 0.4}
    batch = {
        "batch_positive_similarity": 0.5,
        "batch_negative_similarity": None if gap is None else 0.5 - gap,
    }
    memory = {"memory_positive_similarity": 0.4, "memory_negative_similarity": 0.2, "memory_age": 50.0}
    gaps = {"gap": gap, "class_gap": {"road": gap, "pole": None}, "mean_embedding_norm": norm}
    gradients = {"gradient_ratio": 2.0, "gradient_cosine": 0.3}
    return usual | batch | memory | gaps | gradients | others


def evaluation(step: int) -> Row:
    """An eval row of two classes."""
    numbers = {"miou": 0.25, "pixel_accuracy": 0.6, "iou": {"road": 0.5, "pole": 0.0}}
    return {"kind": "eval", "step": step, "steps": 1000, "attempt": 1, "time": 1e9 + step, **numbers}
