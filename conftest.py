"""Fixture with the names that every doctest can use."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _doctest_names(doctest_namespace):
    """Add `torch` to the names of every doctest."""
    doctest_namespace["torch"] = torch
