"""Differentiable X-ray rendering: line integrals through a CT and their derivatives, on Warp or on torch."""
