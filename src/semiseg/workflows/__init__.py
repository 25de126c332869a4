"""One module per verb of the command line and the Python API; `semiseg` exports them by name."""
