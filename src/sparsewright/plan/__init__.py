"""Plans: what a configuration does to a model, computed without training."""
