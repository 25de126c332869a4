"""Compare methods: train and evaluate method x labels x seed, and write a table, plots and pictures."""
