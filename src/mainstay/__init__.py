"""MPI workers that stay."""
