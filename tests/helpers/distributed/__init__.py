"""Programs for `torchrun`, and the functions that start them."""
