"""Plan a run: settings that fit the data, the device and a time budget, each with a reason."""
