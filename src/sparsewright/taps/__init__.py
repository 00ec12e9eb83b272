"""Gradient taps: how the dense gradient of an update step is collected, one object per parameter."""
