"""The run folder, its loop and its configuration; what `sparsewright train` runs."""
