"""Differentiable X-ray rendering: line integrals through a CT and their derivatives. Warp, or torch where Warp is missing."""
