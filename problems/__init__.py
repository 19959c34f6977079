"""Reference problems with known optima: one module per problem, each with ``build(**parameters) -> Reference``.

The functions here only collect default builds; they know nothing of solvers.
"""

from __future__ import annotations

from problems import (
    aly_chan,
    anderson_moore,
    chattering,
    citron_reactor,
    consumption,
    double_integrator,
    fishing,
    hager_1,
    hager_hou_rao,
    hull,
    hypersensitive,
    jackson,
    jaddu_shimemura,
    leukaemia,
    linear_pendulum,
    lqr_terminal_cost,
    luus_reactor,
    neural_ode_xor,
    oscillator_lqr,
    scalar_lqr,
    sir_distancing,
    stirred_tank,
    tuberculosis,
    van_der_pol,
    van_der_pol_bounded,
)
from problems.reference import Exact, Reference

__all__ = [
    "Exact",
    "Reference",
    "all_references",
    "bang_bang_references",
    "discrete_references",
    "singular_references",
    "smooth_references",
]


def smooth_references() -> tuple[Reference, ...]:
    """Problems whose optimal control is continuous, each at its published parameters."""
    return (
        scalar_lqr.build(),
        hager_1.build(),
        lqr_terminal_cost.build(),
        anderson_moore.build(),
        hull.build(),
        double_integrator.build(),
        oscillator_lqr.build(),
        jaddu_shimemura.build(),
        hager_hou_rao.build(),
        van_der_pol.build(),
        van_der_pol_bounded.build(),
        stirred_tank.build(),
        luus_reactor.build(),
        leukaemia.build(),
        sir_distancing.build(),
        neural_ode_xor.build(),
        hypersensitive.build(),
    )


def bang_bang_references() -> tuple[Reference, ...]:
    """Bounded controls at no cost: the reactor family without its case 9, a trap, and two linear problems.

    Those tagged ``'bang-bang'`` never leave their bounds; the reactors of cases 1 to 8 have interior arcs.
    """
    reactors = (citron_reactor.build(case=case) for case in citron_reactor.CASES if case != 9)
    return (*reactors, linear_pendulum.build(), consumption.build())


def singular_references() -> tuple[Reference, ...]:
    """Problems with a singular arc, where the Hamiltonian does not determine the control."""
    return (jackson.build(), fishing.build(), fishing.build(efforts=2), aly_chan.build())


def discrete_references() -> tuple[Reference, ...]:
    """Problems with finitely many admissible controls."""
    return (linear_pendulum.build(finite=True), fishing.build(binary=True), fishing.build(binary=True, efforts=2))


def all_references() -> tuple[Reference, ...]:
    """Every problem with every published variant, no two of the same name."""
    return (
        *smooth_references(),
        *bang_bang_references(),
        *singular_references(),
        *discrete_references(),
        citron_reactor.build(case=9),
        tuberculosis.build(),
        chattering.build(),
    )
