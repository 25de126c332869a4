"""Commands other than training: one package each."""
