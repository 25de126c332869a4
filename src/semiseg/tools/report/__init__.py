"""HTML reports of one run or of several, made from the files in the run directories."""
