"""Training: prepare a run directory, run the loop, log, save and resume. Shared by all methods."""
