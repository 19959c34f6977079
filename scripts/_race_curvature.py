"""K-FAC and a relative for the race, from packages that are not dependencies of anything here.

They take part if ``asdfghjkl`` (ASDL) and ``singd`` with its ``einops`` and ``einconv`` can be imported, for instance
after ``pip install --no-deps asdfghjkl singd einops einconv``.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import warnings
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["ABOUT", "available", "kfac", "singd"]

INTERVAL = 10  # steps between two updates of the curvature, in both methods
DAMPING = 0.1
DECAY = 0.1
ABOUT = {
    "asdl": f"asdfghjkl 0.1a5, Fisher of sampled classes renewed every {INTERVAL} steps, damping {DAMPING}, "
    f"average with weight {DECAY}, SGD with momentum 0.9; its NVTX ranges, which need CUDA, are switched off",
    "singd": f"singd 0.0.5 as inverse-free K-FAC, curvature renewed every {INTERVAL} steps, damping 0.001, "
    "momentum 0.9",
}


NEEDED = {"asdl": ("asdfghjkl",), "singd": ("singd", "einops", "einconv")}  # module -> distributions


def available(module: str) -> bool:
    """Whether an optional module and what it needs are installed."""
    return all(any(importlib.metadata.distributions(name=name)) for name in NEEDED[module])


def optional(name: str) -> ModuleType:
    """Import a module of such a package, whose use of deprecated functions is its own affair."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(name)


class _NoRange(contextlib.ContextDecorator):
    """Stands for a named range of the CUDA profiler."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


def kfac(network: nn.Module, value: float, batch: int) -> Callable[[Tensor, Tensor], None]:
    """K-FAC of ASDL: the gradient is preconditioned, and SGD with momentum takes the step."""
    from torch.cuda import nvtx

    if not torch.cuda.is_available():
        nvtx.range = _NoRange  # type: ignore[assignment]  # raises without CUDA otherwise
    package = optional("asdl.precondition")
    settings = package.PreconditioningConfig(
        data_size=batch,
        damping=DAMPING,
        ema_decay=DECAY,
        preconditioner_upd_interval=INTERVAL,
        curvature_upd_interval=INTERVAL,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        maker = package.KfacGradientMaker(network, settings)
    optimizer = torch.optim.SGD(network.parameters(), lr=value, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        outputs = maker.setup_model_call(network, x)
        maker.setup_loss_call(nn.functional.cross_entropy, outputs, y)
        maker.forward_and_backward()
        optimizer.step()

    return step


def singd(network: nn.Module, value: float, batch: int) -> Callable[[Tensor, Tensor], None]:
    """Inverse-free K-FAC."""
    kind = optional("singd.optim.optimizer").SINGD
    optimizer = kind(network, lr=value, momentum=0.9, T=INTERVAL, kfac_like=True, alpha1=0.0)

    def step(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(network(x), y))
        optimizer.step()

    return step
