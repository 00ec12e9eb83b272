"""Gradient taps collect the dense gradient of an update step; one object for each parameter."""
