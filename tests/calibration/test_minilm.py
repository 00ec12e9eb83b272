"""One-shot pruning of a trained sentence-embedding model of 22.7 million parameters."""

import copy
import sys
from pathlib import Path

import pytest
import torch

import sparsewright as sparse

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def minilm():
    sys.path.insert(0, str(EXAMPLES))
    try:
        import minilm
    finally:
        sys.path.remove(str(EXAMPLES))
    return minilm


@pytest.fixture(scope="module")
def batches(minilm):
    words = minilm.other_words()
    texts = [" ".join(words[start : start + 12]) for start in range(0, 768, 12)]
    return [
        dict(minilm.tokenizer(texts[start : start + 16], padding=True, return_tensors="pt"))
        for start in range(0, len(texts), 16)
    ]


@pytest.mark.slow
def test_embeddings_stay_close_and_wanda_beats_magnitude(minilm, batches):
    dense = minilm.load_model()
    expected = minilm.embed(dense, ["a bird on a roof", "two of them in a tree", "snow"])
    found = {}
    for method in ("magnitude", "wanda"):
        model = copy.deepcopy(dense)
        config = {"method": method, "sparsity": 0.5, "param_filter": "encoder.*.dense.weight"}
        sparsity = sparse.oneshot(model, config, batches)
        assert len(sparsity.sparse_params) == 18
        assert all(p.computed_sparsity == 0.5 for p in sparsity.sparse_params.values())
        own = minilm.embed(model, ["a bird on a roof", "two of them in a tree", "snow"])
        found[method] = (own * expected).sum(1).mean().item()
    assert found["wanda"] > found["magnitude"] > 0.5
    assert torch.equal(next(dense.parameters()), next(model.parameters()))
