"""What ranks must agree on, what they are told if they do not, and contests over shards.

`agreement_worker.py` has a case for each test here; it runs once, on two ranks.
"""

import json

import pytest

from helpers.distributed import agreement_worker
from helpers.distributed.ranks import run_ranks

DIFFERENT = {
    **dict.fromkeys(
        ("algorithm", "distribution", "structure", "update"),
        "AttachError: the algorithms differ between ranks",
    ),
    "storage": "AttachError: the sparse model differs between ranks",
}
EXPECTED = {
    "a_non_finite_gradient_on_one_rank_leaves_the_masks_of_all": [True, True, True, True],
    "a_non_finite_gradient_in_one_shard_leaves_the_masks_of_all": [True, True, True],
    "a_cleared_gradient_of_shards_is_not_summed": [[True] * 8, True],
    "a_gradient_of_shards_that_is_not_cleared_is_summed": [True, True],
    "algorithms_that_differ_are_told_before_masks_of_shards_are_made": DIFFERENT,
    "a_weight_that_was_sharded_is_not_held_whole": True,
    "a_model_that_forward_left_gathered_is_sharded_again_by_apply": [[True, True], [True, True]],
    "a_model_that_is_gathered_while_the_optimizer_steps_trains_on": [True, True, True],
    "closures_of_sharded_models_see_pruned_weights": [[True, True], [True, True], [True, True]],
    "a_sharded_model_of_another_type_trains": [True, True, True],
    "a_sharded_model_made_on_the_meta_device_trains": [True, True, True],
    "a_sharded_state_is_assigned_and_trains_on": [True, True, True],
    "a_full_state_is_sent_by_one_rank_and_trains_on": [True, True, True],
    "ties_over_layers_and_shards_are_those_of_the_whole": [[True, True], [True, True]],
    "masks_that_differ_are_told_at_the_first_step": "AttachError: masks differ between ranks",
    "models_that_differ_are_told_at_the_first_step": (
        "AttachError: the sparse model differs between ranks"
    ),
    "algorithms_that_differ_are_told_at_the_first_step": DIFFERENT,
    "ranks_without_a_sparse_weight_are_told_like_the_others": (
        "AttachError: the sparse model differs between ranks"
    ),
    "functions_and_objects_of_the_users_own_are_equal_on_all_ranks": [2, 10],
    "a_state_that_differs_is_told_at_the_next_step": (
        "AttachError: the sparse model differs between ranks"
    ),
    "another_process_group_is_met_at_the_next_step": (
        "AttachError: the sparse model differs between ranks"
    ),
    "a_compiled_wrapper_brings_its_ranks": True,
    "a_group_of_some_ranks_agrees_among_itself": 4,
    "a_wrapped_model_is_not_compressed": [
        "AttachError: a DistributedDataParallel model: it cannot be compressed because its "
        "gradient buckets are already allocated; compress the model before you wrap it",
        [False, False],
    ],
    "a_compressed_weight_whose_level_moves_is_refused": [
        "AttachError: 0.weight: this mask update would change the number of live connections from "
        "64 to 51, which a compressed weight cannot do under data parallelism; use storage "
        "'masked' for it",
        True,
    ],
    "a_sharded_weight_is_not_compressed": (
        "AttachError: 0.weight: it is sharded, and compressed weights support only data parallelism"
    ),
    "a_compressed_weight_is_not_sharded": (
        "AttachError: 0.weight: a compressed weight cannot be sharded; use storage 'masked', or "
        "DistributedDataParallel instead of sharding"
    ),
    "a_weight_sharded_by_columns_is_refused": "AttachError: 0.weight: its placements are (Shard",
    "scores_of_a_wrapped_model_are_those_of_one_process_on_all_batches": [[True] * 3] * 4,
    "a_wrapped_model_trains_as_if_it_had_not_been_scored": True,
    "a_weight_that_one_rank_uses_is_scored_on_all": [True, True],
    "scores_of_a_sharded_model_are_refused": (
        "AttachError: 0.weight: it is sharded; compute scores before you shard the model, and pass "
        "them to init.from_scores, which shards them like the weights"
    ),
    "first_masks_from_scores_over_shards_are_those_over_the_whole": [True] * 5,
    "masks_from_scores_of_a_wrapped_model_agree": True,
    "an_update_of_shards_sends_counts_only": [True, True, [26214]],
    "an_overflow_under_a_scaler_leaves_no_trace_on_shards": [
        True,
        [
            [1, True],
            [1, True],  # the overflow: not counted
            [2, False],
            [3, True],
            [3, True],  # the overflow of an update step
            [4, False],
            [5, True],
            [6, False],
        ],
    ],
    "contests_over_shards_equal_those_over_the_whole": [[], True],
    "masks_of_a_copied_sharded_model_are_taken_over_and_counted": [32, 16],
    "norms_of_sharded_gradients_are_those_of_the_whole": [3, True, True],
    "a_shaper_of_the_users_own_does_not_know_shards": "ShapeError: a sharded weight",
    "levels_by_magnitude_over_shards_are_those_over_the_whole": [[], True],
    "levels_by_lamp_over_shards_are_those_over_the_whole": [[], True],
    "lamp_levels_of_shards_send_counts_only": [True, True, True],
    "outliers_of_shards_are_those_of_the_whole": [],
    "nan_in_one_layer_on_one_rank_is_told_to_all_by_lamp": "ScoreError: b contains NaN",
    "nan_in_one_layer_on_one_rank_is_told_to_all": "ScoreError: b contains NaN",
    "nan_in_a_group_on_one_rank_is_told_to_all": "ScoreError: score contains NaN",
    "nan_in_a_tile_on_one_rank_is_told_to_all": "ScoreError: score contains NaN",
    "tiles_on_two_ranks_are_told_to_all": [
        "ShapeError: a sharded weight of shape (12, 4): its shards have 6 rows, which cuts tiles "
        "of 4 rows apart; use a size that divides 6, or another number of ranks",
        "ShapeError: a sharded weight of shape (4, 4): its shards have 2 rows, which cuts tiles "
        "of 4 rows apart; use a size that divides 2, or another number of ranks",
    ],
    "tiles_of_a_sharded_model_are_valid_after_every_update": [True, True],
    "an_update_with_ablation_sends_counts_only": [True, True, True],
    "nan_on_one_rank_is_told_to_all": "ScoreError: score contains NaN",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("agreement")
    run_ranks("agreement_worker.py", 2, folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("name", EXPECTED)
def test_on_every_rank(found, name):
    for results in found:
        outcome, expected = results[name], EXPECTED[name]
        if isinstance(expected, str):
            outcome = outcome[: len(expected)]
        assert outcome == expected


def test_ranks_without_a_process_group_train_alone(found):
    kept = [results["ranks_without_a_process_group_train_alone"] for results in found]
    assert kept == [[6, [64, 32]], [6, [68, 34]]]


def test_every_case_is_tested():
    assert set(agreement_worker.CASES) == set(EXPECTED) | {
        "ranks_without_a_process_group_train_alone"
    }
