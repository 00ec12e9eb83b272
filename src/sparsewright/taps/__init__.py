"""Gradient taps, which collect the dense gradient for an update step; one tap per parameter."""
