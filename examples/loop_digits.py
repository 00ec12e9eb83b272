"""Train with a plain loop: the model is sparse only inside the `with` block."""

import torch
from digits import accuracy, load, make_model
from torch import nn

import sparsewright as sparse

batches, images, labels = load()
model = make_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
sparsity = sparse.RigL(sparsity=0.9, update={"freq": 20, "stop": 400})

with sparsity.attached(model, optimizer):
    for _ in range(20):
        for x, y in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()

zeros = float((model[0].weight == 0).float().mean())
print(f"zeros {zeros:.3f}, accuracy {accuracy(model, images, labels):.3f}")
