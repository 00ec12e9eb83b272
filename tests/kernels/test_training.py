"""Training gives the same bits with native and reference kernels, on one thread and on two."""

import hashlib
import os
import subprocess
import sys

import pytest

PROGRAM = """
import hashlib, sys, torch, sparsewright as sparse
from sparsewright import kernels
threads, algorithm = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(300, 400), torch.nn.Tanh(), torch.nn.Linear(400, 20))
level = {"type": "cubic", "init": 0.2, "final": 0.9, "begin": 0, "end": 20}
sparsity = sparse.configure({"algorithm": algorithm, "update": 3,
                             "sparsity": level if algorithm == "gmp" else 0.8})
sparsity.apply(model)
optimizer = torch.optim.AdamW(model.parameters())
sparsity.apply(optimizer)
x = torch.randn(32, 300)
for _ in range(20):
    torch.set_num_threads(1)
    optimizer.zero_grad()
    model(x).square().mean().backward()
    torch.set_num_threads(threads)
    optimizer.step()
digest = hashlib.sha256()
for tensor in model.state_dict().values():
    digest.update(tensor.numpy().tobytes())
print(kernels.info()["active"], digest.hexdigest())
"""


def run(algorithm, kernels, threads):
    environment = {**os.environ, "SPARSEWRIGHT_KERNELS": kernels}
    command = [sys.executable, "-c", PROGRAM, str(threads), algorithm]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("algorithm", ["gmp", "set", "rigl"])
def test_same_bits_on_every_path(algorithm):
    _, native = run(algorithm, "auto", 1)
    active, reference = run(algorithm, "reference", 1)
    assert active == "reference"
    assert len(native) == hashlib.sha256().digest_size * 2
    assert native == reference == run(algorithm, "auto", 2)[1]
