"""Settings shared by all tests."""

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile(
    "sparsewright",
    deadline=None,
    max_examples=60,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("sparsewright")

# The models here are tiny, so a second thread would only wait.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_start():
    """Start every test from the same global random state."""
    torch.manual_seed(0)
