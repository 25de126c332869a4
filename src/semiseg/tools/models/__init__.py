"""Load a trained network, from a run, a checkpoint or an export."""
