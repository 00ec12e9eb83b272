"""The training loop behind `sparsewright train`, with its configuration and run folder."""
