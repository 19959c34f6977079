"""Who takes part in the race, with which step sizes, and what a step costs; it knows neither tasks nor results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import ocsolver as oc
from scripts import _race_curvature
from scripts._race import Rules, Watch
from scripts._race_loops import averaged, curvature, muon, optimizer, plain, quasi_newton, successive
from scripts._race_tasks import Case

__all__ = ["EMSA", "METHODS", "SUCCESSIVE", "Method", "forward_equivalents"]

SUCCESSIVE = "E-MSA"
EMSA: oc.Solver = oc.EMSA()  # what is measured as E-MSA
WARM_UP = 6  # steps before the race that are not measured: imports, caches, and the count of operations

Train = Callable[[Case, float, Watch], None]


@dataclass(frozen=True)
class Method:
    """One competitor."""

    name: str
    train: Train
    grids: dict[str, range] = field(default_factory=dict)  # half decades for each measure; empty: nothing to tune
    all_raced: str = ""  # measure for which the whole grid takes part, and the best value counts at each threshold
    only: str = ""  # measure that it is restricted to
    limit: int | None = None  # steps, if fewer than those of the task
    default: bool = True  # whether it takes part without being named
    first_order: bool = True  # of the usual optimizers, without an average of the weights
    about: str = ""


# ------------------------------------------------------------------------------------------------------- all of them

MOMENTUM = optimizer(torch.optim.SGD, momentum=0.9)
ADAM = {"loss": range(-6, -1), "accuracy": range(-7, -3)}

METHODS = {
    method.name: method
    for method in (
        Method(SUCCESSIVE, partial(successive, EMSA), about=repr(EMSA)),
        Method(
            f"{SUCCESSIVE} L-BFGS",
            partial(successive, oc.EMSA(oc.LBFGS(iterations=10))),
            limit=100,
            default=False,
            about="10 iterations of L-BFGS on the Hamiltonian of each layer",
        ),
        Method(
            "SGD",
            partial(plain, MOMENTUM),
            {"loss": range(-7, -2), "accuracy": range(-4, 0)},
            about="momentum 0.9",
        ),
        Method(
            "SGD mean",
            partial(averaged, MOMENTUM),
            {"accuracy": range(-4, 1)},
            only="accuracy",
            first_order=False,
            about="momentum 0.9, evaluated at an average of the weights like that of E-MSA",
        ),
        Method(
            "Adagrad", partial(plain, optimizer(torch.optim.Adagrad)), {"loss": range(-4, 1), "accuracy": range(-5, -1)}
        ),
        Method("Adam", partial(plain, optimizer(torch.optim.Adam)), ADAM, all_raced="loss"),
        Method(
            "Adam mean",
            partial(averaged, optimizer(torch.optim.Adam)),
            ADAM,
            only="accuracy",
            first_order=False,
            about="evaluated at an average of the weights like that of E-MSA",
        ),
        Method("AdamW", partial(plain, optimizer(torch.optim.AdamW)), ADAM, about="weight decay 0.01"),
        Method(
            "Muon",
            partial(plain, muon),
            ADAM,
            default=hasattr(torch.optim, "Muon"),
            about="torch.optim.Muon for hidden weights, scaled like AdamW and without decay; Adam for the rest",
        ),
        Method("L-BFGS", quasi_newton, only="loss", first_order=False, about="full batch, strong Wolfe, history 100"),
        Method(
            "K-FAC",
            partial(curvature, _race_curvature.kfac),
            {"accuracy": range(-8, -3)},
            only="accuracy",
            default=_race_curvature.available("asdl"),
            first_order=False,
            about=_race_curvature.ABOUT["asdl"],
        ),
        Method(
            "SINGD",
            partial(curvature, _race_curvature.singd),
            {"accuracy": range(-6, -2)},
            only="accuracy",
            default=_race_curvature.available("singd"),
            first_order=False,
            about=_race_curvature.ABOUT["singd"],
        ),
    )
}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts floating-point operations of products and convolutions.

    Unlike PyTorch's own counter it does not follow modules, whose hooks refuse the gradients that E-MSA takes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def forward_equivalents(method: Method, case: Case, value: float) -> float:
    """Operations of a step in units of one forward pass on the same batch, from a few steps that also warm up.

    Only products and convolutions count; a backward pass is then about two. What else a method does costs time that
    this number does not show.
    """
    x, y = case.train if case.batch is None else next(iter(case.loader()))
    with torch.no_grad(), Operations() as forward:
        case.build()(x)
    watch = Watch(method.name, Rules("loss", (), lambda step: False), min(WARM_UP, method.limit or WARM_UP))
    brief = replace(case, test=(case.test[0][:1], case.test[1][:1]))
    with Operations() as counted:
        method.train(brief, value, watch)
    return float(counted.total / max(1, watch.steps) / max(1.0, forward.total))
