"""Test that a plan and `apply` leave the same weights dense by default, for the same reasons."""

import logging
from pathlib import Path

import pytest
import yaml

import sparsewright as sparse
from helpers import written_models
from sparsewright.plan.plan_config import plan_file

SECTIONS = {
    "default": {"algorithm": "set", "sparsity": 0.5, "update": 2},
    "after another entry": [
        {"algorithm": "static", "sparsity": 0.5, "param_filter": ["*wte*", "*mlp*", "*fc*"]},
        {"algorithm": "static", "sparsity": 0.75},
    ],
}


@pytest.mark.parametrize("section", SECTIONS.values(), ids=SECTIONS)
@pytest.mark.parametrize("model", ["NanoGPT", "ConvNeXt", "ResNet", "Distiller"])
def test_plan_and_apply_agree(tmp_path: Path, caplog, section: object, model: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(section))
    plan, problems = plan_file(path, f"helpers.written_models:{model}", 10)
    assert plan is not None, problems
    group = sparse.configure(section)
    with caplog.at_level(logging.INFO, "sparsewright"):
        group.apply(getattr(written_models, model)())
    assert {weight.name: weight.kept[0] for weight in plan.sparse} == {
        name: parameter.kept for name, parameter in group.sparse_params.items()
    }
    dense = [weight for weight in plan.weights if weight.entry is None and not weight.tied_to]
    assert dense
    for weight in dense:
        reason = weight.reason.removeprefix("no param_filter matches its name; ")
        assert f"{weight.name} stays dense: {reason}" in caplog.messages
