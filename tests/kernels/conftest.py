"""Fixtures that run a kernel as the reference and with each instruction set of this CPU."""

import pytest
import torch

from sparsewright.kernels import native, reference

ISAS = ["portable", "avx2", "avx512"]


def available() -> list[str]:
    if native.info()["active"] == "reference":
        return []
    return ISAS[: ISAS.index(native.info()["best_isa"]) + 1]


class Runner:
    """Run operations on one path with a fixed number of threads."""

    def __init__(self, isa: str | None, threads: int):
        self.isa, self.threads = isa, threads

    def __getattr__(self, name):
        if self.isa is None:
            return getattr(reference, name)
        operation = getattr(native, name)
        return lambda *args: operation(*args, threads=self.threads, isa=self.isa)

    def select(self, score, num, among=None, magnitude=True):
        num = reference.check_select(score, num, among)
        if self.isa is None:
            return reference.select(score, num, among, magnitude)
        return native.select(score, num, among, magnitude, threads=self.threads, isa=self.isa)


# Threads use the same code for every instruction set, so only the best one is run with two.
RUNNERS = [Runner(None, 1)] + [Runner(isa, 1) for isa in available()]
RUNNERS += [Runner(isa, 2) for isa in available()[-1:]]


@pytest.fixture(params=RUNNERS, ids=lambda r: f"{r.isa or 'reference'}-{r.threads}")
def kernels(request):
    return request.param


@pytest.fixture(
    params=[torch.float32, torch.float64, torch.bfloat16, torch.float16],
    ids=lambda dtype: str(dtype).removeprefix("torch."),
)
def dtype(request):
    return request.param
