"""Masks and values on a GPU, which must equal those on the CPU."""

import pytest
import torch

import sparsewright as sparse
from sparsewright import kernels

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="no GPU: torch.cuda.is_available() is False"
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("magnitude", [True, False])
def test_select_equals_the_cpu(dtype, magnitude):
    generator = torch.Generator().manual_seed(0)
    score = (torch.randn(5, 4000, generator=generator) * 4).round().to(dtype)
    among = torch.rand(5, 4000, generator=generator) < 0.5
    num = [0, 1, 700, 1999, 4000]
    cpu = kernels.select(score, num, among, magnitude)
    gpu = kernels.select(score.cuda(), num, among.cuda(), magnitude)
    assert gpu.device.type == "cuda"
    assert torch.equal(gpu.cpu(), cpu)


def test_uniform_equals_the_cpu():
    for first in (0, (1 << 40) + 7):
        cpu, gpu = torch.empty(1000, 70), torch.empty(1000, 70, device="cuda")
        assert torch.equal(
            kernels.uniform_(gpu, 1 << 63, first).cpu(), kernels.uniform_(cpu, 1 << 63, first)
        )


def test_prune_equals_the_cpu_and_removes_nan():
    tensor, mask = torch.randn(300, 70), torch.rand(300, 70) < 0.3
    tensor[~mask] = torch.nan
    gpu = tensor.cuda()
    kernels.prune_many_([gpu], [mask.cuda()])
    assert torch.equal(gpu.cpu(), tensor.where(mask, torch.zeros(())))


@pytest.mark.parametrize("algorithm", ["static", "set", "rigl"])
def test_masks_of_a_run_start_and_stay_equal(algorithm):
    masks = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Linear(32, 8)).to(device)
        sparsity = sparse.configure({"algorithm": algorithm, "sparsity": 0.8})
        sparsity.apply(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sparsity.apply(optimizer)
        x = torch.arange(128.0).reshape(2, 64).to(device) / 128
        model(x).sum().backward()
        optimizer.step()
        masks.append([p.mask.cpu() for p in sparsity.sparse_params.values()])
    assert all(torch.equal(a, b) for a, b in zip(*masks, strict=True))
