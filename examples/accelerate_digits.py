"""Train with Accelerate, which needs no callback: it saves the algorithm with its own state."""

import sys

import torch
from accelerate import Accelerator
from digits import accuracy, load, make_model
from torch import nn

import sparsewright as sparse

folder = sys.argv[1] if len(sys.argv) > 1 else "runs/accelerate"
accelerator = Accelerator(cpu=True)
batches, images, labels = load()
model = make_model()
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)

sparsity = sparse.RigL(sparsity=0.9, update={"freq": 20, "stop": 400})
sparsity.apply(model)  # before prepare, which may wrap the model
sparsity.apply(optimizer)
model, optimizer, batches = accelerator.prepare(model, optimizer, batches)
accelerator.register_for_checkpointing(sparsity)

for _ in range(20):
    for x, y in batches:
        optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(model(x), y))
        optimizer.step()

accelerator.save_state(folder)  # load_state(folder) restores all three
zeros = float((model[0].weight == 0).float().mean())
print(f"zeros {zeros:.3f}, accuracy {accuracy(model, images, labels):.3f}")
