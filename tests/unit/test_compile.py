"""``run.compile``: when the compiler works."""

from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config as functorch

from pixelcontrast.training import loop


def test_the_backward_pass_is_compiled_within_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the loop's own thread, so that its stack is seen to move while the compiler works."""
    monkeypatch.setattr(functorch, "force_non_lazy_backward_lowering", False)
    loop._distribute(nn.Linear(2, 2), torch.device("cpu"), compiled=True)
    compiled: list[str] = []

    def compiler(name: str) -> Any:
        def take(graph: Any, _inputs: Any) -> Any:
            compiled.append(name)
            return make_boxed_func(graph.forward)

        return take

    network = nn.Linear(3, 2)
    network.compile(backend=aot_autograd(fw_compiler=compiler("forward"), bw_compiler=compiler("backward")))
    loss = network(torch.randn(4, 3)).square().sum()
    assert compiled == ["forward", "backward"]
    loss.backward()
    assert network.weight.grad is not None
