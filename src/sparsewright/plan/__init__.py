"""Plan a run: compute what a configuration does to a model, without training."""
