"""A real Slurm cluster on one machine: `from cluster.bed import Cluster`, or `make cluster`."""
