"""Prune half of a language model's weights in one shot, without training."""

from minilm import agreement, load_model

import sparsewright as sparse

model = load_model()
print(f"dense: correlation with human ratings {agreement(model):.3f}")

sparsity = sparse.Static(0.5, init_method="topk")  # keeps the larger half of each weight
sparsity.apply(model)
weights = sparsity.sparse_params.values()
kept, total = sum(p.kept for p in weights), sum(p.shape.numel() for p in weights)
print(f"{kept:,} of {total:,} entries kept: correlation {agreement(model):.3f}")
