"""Collocation of the maximum principle: coefficients, Newton system, interior-point iterations, refinement."""
