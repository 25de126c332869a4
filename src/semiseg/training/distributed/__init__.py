"""Several processes: launch, process group, reductions."""
