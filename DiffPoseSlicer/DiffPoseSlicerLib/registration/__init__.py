"""Finding the pose: similarity, solver, starts, trust. Needs no torch."""
