"""Worker processes that run segments: tensors in shared memory, small messages for everything else."""
