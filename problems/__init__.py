"""Reference problems with known optima: one module per problem, each with ``build(**parameters) -> Reference``.

The functions here only collect default builds; they know nothing of solvers.
"""

from __future__ import annotations

from problems import (
    aly_chan,
    anderson_moore,
    brachistochrone,
    bryson_denham,
    chattering,
    citron_reactor,
    consumption,
    decay,
    double_integrator,
    fishing,
    free_time_regulator,
    hager_1,
    hager_hou_rao,
    hull,
    hypersensitive,
    hypersensitive_terminal,
    jackson,
    jaddu_shimemura,
    jaddu_shimemura_constrained,
    leukaemia,
    linear_hypersensitive,
    linear_pendulum,
    lqr_terminal_cost,
    luus_reactor,
    maximum_range,
    minimum_energy,
    minimum_fuel,
    minimum_time,
    mixed_constraint,
    moon_lander,
    neural_ode_xor,
    neural_ode_xor_margin,
    oscillator_lqr,
    robot_arm,
    scalar_lqr,
    scalar_lqr_terminal,
    sir_capacity,
    sir_distancing,
    stirred_tank,
    time_in_dynamics,
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
    "constrained_references",
    "discrete_references",
    "free_end_references",
    "singular_references",
    "smooth_references",
]


def smooth_references() -> tuple[Reference, ...]:
    """Free-end problems whose optimal control is continuous, each at its published parameters."""
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
    """Free ends, bounded controls at no cost: the reactor family without its case 9, a trap, and two linear problems.

    Those tagged ``'bang-bang'`` never leave their bounds; the reactors of cases 1 to 8 have interior arcs.
    """
    reactors = (citron_reactor.build(case=case) for case in citron_reactor.CASES if case != 9)
    return (*reactors, linear_pendulum.build(), consumption.build())


def singular_references() -> tuple[Reference, ...]:
    """Free-end problems with a singular arc, where the Hamiltonian does not determine the control."""
    return (jackson.build(), fishing.build(), fishing.build(efforts=2), aly_chan.build())


def discrete_references() -> tuple[Reference, ...]:
    """Free-end problems with finitely many admissible controls."""
    return (linear_pendulum.build(finite=True), fishing.build(binary=True), fishing.build(binary=True, efforts=2))


def free_end_references() -> tuple[Reference, ...]:
    """Every problem with a fixed start, a fixed horizon, a free end and no path constraint, with every variant."""
    return (
        *smooth_references(),
        *bang_bang_references(),
        *singular_references(),
        *discrete_references(),
        citron_reactor.build(case=9),
        tuberculosis.build(),
        chattering.build(),
    )


def constrained_references() -> tuple[Reference, ...]:
    """Every problem with constraints or free ends, with every published variant; the tags say which."""
    return (
        minimum_energy.build(),
        minimum_time.build(),
        minimum_fuel.build(),
        bryson_denham.build(),
        decay.build(),
        decay.build(least="fuel"),
        decay.build(least="time"),
        free_time_regulator.build(),
        time_in_dynamics.build(),
        mixed_constraint.build(),
        brachistochrone.build(),
        maximum_range.build(),
        moon_lander.build(),
        hypersensitive_terminal.build(),
        linear_hypersensitive.build(),
        robot_arm.build(),
        jaddu_shimemura_constrained.build(),
        sir_capacity.build(),
        scalar_lqr_terminal.build(),
        neural_ode_xor_margin.build(),
    )


def all_references() -> tuple[Reference, ...]:
    """Every problem with every published variant, no two of the same name."""
    return (*free_end_references(), *constrained_references())
