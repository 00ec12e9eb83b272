"""Recipes for `sparsewright train`: data, models and default configurations."""
