"""The loss of anchors whose examples are known."""

import torch
import torch.nn.functional as F
from torch import Tensor


def info_nce(positives: Tensor, negatives: Tensor) -> Tensor:
    """Eq. 3 for each anchor: the mean over its positives of −log(e^s⁺ / (e^s⁺ + Σ e^s⁻)), s = i·k/τ.

    (Wang et al., ICCV 2021.) Written as softplus(L − s⁺), L the log-sum-exp of the negatives, it needs no
    logarithm of a quotient.

    Args:
        positives: [a, p], s of each anchor's positives; p is not 0.
        negatives: [a, n], s of its negatives; n may be 0.

    Returns:
        [a]; 0 without negatives.
    """
    return F.softplus(torch.logsumexp(negatives, dim=1, keepdim=True) - positives).mean(dim=1)
