"""Programs that `torchrun` starts, and what starts them."""
