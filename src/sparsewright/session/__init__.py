"""Sessions: attach sparsity to a user's models and optimizers, and detach it again."""
