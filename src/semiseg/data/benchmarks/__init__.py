"""Published data sets as downloaded."""
