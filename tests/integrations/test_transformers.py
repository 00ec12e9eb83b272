"""The callback for transformers' Trainer, with real trainers and a small real model."""

import base64
import json

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import sparsewright as sparse
from helpers.support import assert_pruned, assert_same, masks_of
from sparsewright.errors import AttachError, StateError
from sparsewright.integrations.transformers import SparsityCallback

QUERY = "bert.encoder.layer.0.attention.self.query.weight"


def make_model(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertForSequenceClassification(
            BertConfig(
                vocab_size=30,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=16,
            )
        )


def rows():
    generator = torch.Generator().manual_seed(5)
    words = torch.randint(0, 30, (40, 8), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > 15)} for row in words]


def rigl():
    return sparse.RigL(sparsity=0.5, update=3, seed=1)


def group():
    return sparse.configure(
        [
            {"algorithm": "set", "sparsity": 0.5, "update": 2, "param_filter": "*query*"},
            {"algorithm": "rigl", "sparsity": [0.5, 0.75], "update": 3},
        ]
    )


def ste():
    return sparse.STE(0.5, update=3, structure="2:4")


def group_with_ste():
    return sparse.configure(
        [
            {"algorithm": "ste", "sparsity": 0.5, "update": 2, "param_filter": "*query*"},
            {"algorithm": "rigl", "sparsity": 0.5, "distribution": "global", "update": 3},
        ]
    )


def make_trainer(folder, sparsity, steps=10, model=None, callbacks=(), model_init=None, **options):
    arguments = {
        "max_steps": steps,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
        "weight_decay": 0.1,
        "save_steps": 5,
        "logging_steps": 3,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        **options,
    }
    return Trainer(
        model or (None if model_init else make_model()),
        TrainingArguments(str(folder), **arguments),
        train_dataset=rows(),
        eval_dataset=rows()[:4],
        callbacks=[SparsityCallback(sparsity), *callbacks],
        model_init=model_init,
    )


def inner(trainer):
    return trainer.optimizer.optimizer


@pytest.mark.parametrize("make", [rigl, group])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}, {"restore": True}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, make, options):
    options = dict(options)
    if options.pop("restore", False):
        options["restore_callback_states_from_checkpoint"] = True
    resumed, optimizer = resume(tmp_path, make, **options)
    assert_pruned(resumed, optimizer)


def in_order(state):
    """Return a state whose dict keys have the order of a JSON file."""
    if isinstance(state, dict):
        return {key: in_order(state[key]) for key in sorted(state)}
    return [in_order(each) for each in state] if isinstance(state, list) else state


def resume(folder, make, dtype=torch.float32, **options):
    """Resume in the middle of a run, and compare with an uninterrupted run."""
    whole = make()
    first = make_trainer(folder, whole, model=make_model().to(dtype), **options)
    first.train()

    resumed = make()
    torch.manual_seed(99)
    second = make_trainer(folder / "again", resumed, model=make_model(7).to(dtype), **options)
    second.train(resume_from_checkpoint=str(folder / "checkpoint-5"))
    assert resumed.step == whole.step == 10
    assert_same(dict(first.model.state_dict()), dict(second.model.state_dict()))
    assert_same(inner(first).state_dict()["state"], inner(second).state_dict()["state"])
    assert_same(in_order(resumed.state_dict()), in_order(whole.state_dict()))
    return resumed, inner(second)


@pytest.mark.parametrize("make", [ste, group_with_ste])
@pytest.mark.parametrize(
    "options",
    [{}, {"restore_callback_states_from_checkpoint": True}, {"dtype": torch.bfloat16}],
    ids=lambda options: "-".join(options) or "plain",
)
def test_shadows_are_resumed_too(tmp_path, make, options):
    resumed, _ = resume(tmp_path, make, **options)
    shadows = [shadow for rule in resumed.algorithms for shadow in rule.shadows.values()]
    assert shadows
    assert all(bool(shadow.any()) for shadow in shadows)
    assert all(shadow.dtype == options.get("dtype", torch.float32) for shadow in shadows)


def test_a_checkpoint_at_the_end_of_an_epoch_has_its_own_shadows(tmp_path):
    """Checkpoints contain the state for every save strategy."""
    sparsity = ste()
    options = {"save_strategy": "epoch", "logging_strategy": "epoch"}
    make_trainer(tmp_path, sparsity, steps=20, **options).train()
    early, late = (load_state(tmp_path / f"checkpoint-{step}") for step in (10, 20))
    again = ste()
    again.load_state_dict(late)
    assert_same(in_order(again.state_dict()), in_order(sparsity.state_dict()))
    assert not torch.equal(early["shadows"][QUERY], late["shadows"][QUERY])


@pytest.mark.parametrize("damage", [lambda text: text[:-5], lambda text: "AAAA" + text[4:]])
def test_damaged_shadows_are_refused(tmp_path, damage):
    make_trainer(tmp_path, ste(), steps=5).train()
    path = tmp_path / "checkpoint-5" / "trainer_state.json"
    state = json.loads(path.read_text())
    saved = state["stateful_callbacks"]["sparsity"]
    saved["shadows"] = damage(saved["shadows"])
    path.write_text(json.dumps(state))
    with pytest.raises(StateError, match="the shadows: they are not valid base64 of safetensors"):
        make_trainer(tmp_path, ste()).train(resume_from_checkpoint=True)


def load_state(folder):
    """Return the algorithm's state in a checkpoint."""
    state = json.loads((folder / "trainer_state.json").read_text())
    saved = state["stateful_callbacks"]["sparsity"]
    packed = safetensors.torch.load(base64.b64decode(saved["shadows"]))
    return {**saved, "shadows": packed}


def test_what_a_checkpoint_holds(tmp_path):
    sparsity = rigl()
    make_trainer(tmp_path, sparsity, steps=5).train()
    saved = load_file(tmp_path / "checkpoint-5" / "model.safetensors")
    assert saved[QUERY + "_mask"].dtype == torch.bool
    assert torch.equal(saved[QUERY + "_mask"], sparsity.sparse_params[QUERY].mask)
    state = json.loads((tmp_path / "checkpoint-5" / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["sparsity"] == sparsity.state_dict()
    assert sparsity.state_dict()["steps"] == [5]


def test_only_the_weights_of_linear_layers_are_sparse_and_follow_every_step(tmp_path):
    sparsity, seen = rigl(), []
    sparsity.register_mask_update_hook(lambda update: seen.append(update.step))
    trainer = make_trainer(tmp_path, sparsity, steps=7, gradient_accumulation_steps=2)
    trainer.train()
    assert sorted(set(seen)) == [3, 6]
    assert sparsity.num_sparse_params == 7  # attention 4, feed-forward 2, pooler
    assert_pruned(sparsity, inner(trainer))


class Reporter(TrainerCallback):
    """A callback that is added later and records the logs."""

    def __init__(self):
        self.logs = []

    def on_log(self, args, state, control, logs=None, **rest):
        self.logs.append(dict(logs))


def test_what_is_logged(tmp_path):
    reporter, sparsity = Reporter(), rigl()
    trainer = make_trainer(tmp_path, sparsity, steps=7, callbacks=[reporter])
    trainer.train()
    logged = [row for row in trainer.state.log_history if "loss" in row]
    assert [row["step"] for row in logged] == [3, 6]
    for row in logged:
        assert row["sparsity/actual"] == 0.5
        assert 0 < row["sparsity/churn"] <= 0.6
        assert not [key for key in row if key.count("/") > 1]
    assert [row["sparsity/churn"] for row in reporter.logs if "loss" in row] == [
        row["sparsity/churn"] for row in logged
    ]
    assert "sparsity/actual" not in reporter.logs[-1]  # the summary at the end
    assert not sparsity._hooks.has("end")
    callback = trainer.pop_callback(SparsityCallback)
    assert callback._scalars == {}  # nothing is computed at steps that are not logged


def test_what_is_logged_at_the_end_of_epochs(tmp_path):
    sparsity = sparse.RigL(sparsity=0.5, update={"freq": 3, "stop": 10})
    options = {"logging_strategy": "epoch", "eval_strategy": "steps", "eval_steps": 5}
    trainer = make_trainer(tmp_path, sparsity, steps=20, **options)
    trainer.train()
    logged = trainer.state.log_history  # ten steps per epoch
    first, second = (row for row in logged if "loss" in row)
    assert 0 < first["sparsity/churn"] <= 0.6
    assert second["sparsity/actual"] == 0.5
    assert "sparsity/churn" not in second  # no update since
    others = [row for row in logged if "loss" not in row]  # evaluations and the summary
    assert len(others) == 5
    assert not [row for row in others if "sparsity/actual" in row]


class CountsMore(TrainerCallback):
    """A callback that makes the Trainer count skipped steps, as with a gradient scaler."""

    def on_pre_optimizer_step(self, args, state, control, **rest):
        if state.global_step in (1, 7):
            state.global_step += 1


def test_what_is_logged_is_of_the_step_that_is_logged(tmp_path):
    """Logs have the right step, though the algorithm trained before and steps were skipped."""
    sparsity, reporter = rigl(), Reporter()
    trainer = make_trainer(tmp_path, sparsity, steps=4, logging_steps=6)
    trainer.train()
    trainer.add_callback(reporter)
    trainer.add_callback(CountsMore())
    trainer.args.max_steps = 24
    norms = []
    sparse.log_metrics(sparsity, lambda scalars, step: norms.append(scalars["sparsity/grad_norm"]))
    seen = []
    reporter.on_log = lambda args, state, control, logs=None, **rest: seen.append(
        (state.global_step, logs.get("sparsity/grad_norm"), norms[-1])
    )
    trainer.train()
    assert [step for step, *_ in seen] == [6, 12, 18, 24, 24]
    for _, logged, last in seen[:-1]:
        assert logged == last


def test_training_twice_goes_on(tmp_path):
    sparsity = rigl()
    trainer = make_trainer(tmp_path, sparsity, steps=4)
    trainer.train()
    trainer.train()
    assert sparsity.state_dict()["steps"] == [8]
    assert_pruned(sparsity, inner(trainer))
    assert [f.optimizer for f in sparsity.session.followed] == [inner(trainer)]


def test_a_new_model_of_model_init_starts_again(tmp_path):
    sparsity = rigl()
    trainer = make_trainer(tmp_path, sparsity, steps=4, model_init=lambda: make_model())
    for _ in range(2):
        trainer.train()
        assert sparsity.step == 4
        assert sparsity.num_sparse_params == 7
        assert sparsity.get_sparse_params(trainer.model.bert.pooler.dense.weight) is not None
        assert_pruned(sparsity, inner(trainer))
    trainer.args.max_steps, trainer.args.save_steps = 4, 2
    trainer.train()
    again = make_trainer(tmp_path, rigl(), steps=6, model_init=lambda: make_model())
    with pytest.raises(AttachError, match=r"to resume, pass model=model_init\(\) to the Trainer"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_saved_model_loads_as_an_ordinary_one(tmp_path, capfd):
    sparsity = sparse.GMP({"type": "linear", "init": 0.2, "slope": 0.05}, update=2)
    trainer = make_trainer(tmp_path, sparsity, steps=4)
    trainer.train()
    trainer.save_model(tmp_path / "masked")
    loaded = BertForSequenceClassification.from_pretrained(tmp_path / "masked")
    assert torch.equal(loaded.classifier.weight, trainer.model.classifier.weight)
    again = sparse.Static(0.5, init_method="from_zeros")
    again.apply(loaded)
    assert_same(masks_of(again), masks_of(sparsity))

    sparsity.remove()
    trainer.save_model(tmp_path / "plain")
    assert not [key for key in load_file(tmp_path / "plain" / "model.safetensors") if "mask" in key]


def test_the_state_of_another_algorithm_is_refused(tmp_path):
    make_trainer(tmp_path, sparse.SET(sparsity=0.5), steps=5).train()
    with pytest.raises(StateError, match=r"state of RigL: it was saved by 'SET'$"):
        make_trainer(tmp_path, rigl()).train(resume_from_checkpoint=True)


def test_an_algorithm_applied_before_stays_as_it_is(tmp_path):
    model, sparsity = make_model(), sparse.Static(0.5)
    sparsity.apply(model)
    before = masks_of(sparsity)
    make_trainer(tmp_path, sparsity, steps=2, model=model).train()
    assert_same(masks_of(sparsity), before)
