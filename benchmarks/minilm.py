"""Measure the quality of a pruned sentence-embedding model, without and with distillation.

    python benchmarks/minilm.py

Prints Spearman's correlation with human ratings of word similarity (WordSim-353) for the model of
`examples/minilm.py`: dense, pruned in one shot to several sparsity levels, and pruned to 80% and
then trained for 20 steps by `examples/transformers_finetune.py`. Requires the extra `examples`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import harness

import sparsewright as sparse

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))


def main() -> None:
    """Measure and print the correlations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--levels", type=float, nargs="+", default=[0.5, 0.8])
    parser.add_argument("--steps", type=int, default=20, help="steps of distillation")
    args = parser.parse_args()
    from minilm import agreement, load_model
    from transformers_finetune import make_trainer

    rows = [{"case": "dense", "agreement": agreement(load_model())}]
    for level in args.levels:
        model = load_model()
        sparse.Static(level, init_method="topk").apply(model)
        rows.append({"case": f"{level:.0%}, one shot", "agreement": agreement(model)})
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(folder, steps=args.steps, save_steps=args.steps)
        trainer.train()
        trainer.model.eval()
        case = f"80%, {args.steps} steps of distillation"
        rows.append({"case": case, "agreement": agreement(trainer.model)})
    for row in rows:
        print(f"{row['case']:36} {row['agreement']:.3f}")
    harness.write(rows, "minilm")


if __name__ == "__main__":
    main()
