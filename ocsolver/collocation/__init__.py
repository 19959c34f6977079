"""Collocation of the maximum principle on a mesh: coefficients, Newton system, interior-point iterations, refinement."""
