"""Segments in processes of their own: shared memory for the tensors, small messages for everything else."""
