"""Prune a language model in one shot: half of its weights gone, no training."""

from minilm import agreement, load_model

import sparsewright as sparse

model = load_model()
print(f"dense: agreement with people {agreement(model):.3f}")

sparsity = sparse.Static(0.5, init_method="topk")  # of each weight, the larger half stays
sparsity.apply(model)
weights = sparsity.sparse_params.values()
kept, total = sum(p.kept for p in weights), sum(p.shape.numel() for p in weights)
print(f"{kept:,} of {total:,} weights left: agreement {agreement(model):.3f}")
