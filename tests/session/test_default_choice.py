"""The default choice of sparse weights, for each role of a weight in small models."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations

import sparsewright as sparse
from helpers.named import BLOCKS, Named, blocks, linear
from sparsewright.errors import SparsityWarning
from sparsewright.session.roles import dense_by_default


def sparse_in(model):
    """Return the parameters sparse by default, after checking `dense_by_default` and `apply`."""
    dense = dense_by_default(model)
    names = {name for name, _ in model.named_parameters()} - set(dense)
    if not names:
        with pytest.warns(SparsityWarning, match="no parameter was sparsified"):
            sparse.Static(0.5).apply(model)
        return names
    algorithm = sparse.Static(0.5)
    algorithm.apply(model)
    assert set(algorithm.sparse_params) == names
    return names


def kind_of(model, name):
    return dense_by_default(model)[name].kind


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.sampled_from(["plain", "conv"]))
def test_parameters_with_one_large_dimension_stay_dense_unless_a_layer_multiplies_by_them(
    shape, owner
):
    model = Named(fc=linear(), thing=torch.ones(shape))
    is_vector = len([size for size in shape if size > 1]) < 2
    assert ("thing" in dense_by_default(model)) == is_vector
    if owner == "conv" and len(shape) > 2:
        layer = [nn.Conv1d, nn.Conv2d, nn.Conv3d][len(shape) - 3](1, 1, 1)
        layer.weight = nn.Parameter(torch.ones(shape))
        assert "thing.weight" not in dense_by_default(Named(fc=linear(), thing=layer))


@pytest.mark.parametrize(("kernel", "is_scale"), [(1, True), (3, False)])
def test_a_convolution_that_scales_each_channel_is_a_vector(kernel, is_scale):
    scale = nn.Conv2d(8, 8, kernel, groups=8, bias=False)
    expected = {"fc.weight"} if is_scale else {"fc.weight", "scale.weight"}
    assert sparse_in(Named(fc=linear(), scale=scale)) == expected
    assert sparse_in(nn.Sequential(nn.Conv2d(1, 8, 1))) == {"0.weight"}


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_last_layer_of_a_plain_model_is_sparse_whatever_its_shape(outputs):
    model = nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, outputs))
    assert sparse_in(model) == {"0.weight", "2.weight"}


class TokenEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(10, 8))


class RootMeanSquareNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8, 4))


class LayerNormChannelsFirst(nn.LayerNorm):
    pass


class ConvGRN(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, 1, 1, 8))


class NormLinear(nn.Linear):
    """A linear layer with normalized outputs; it is not a normalization layer."""


KINDS = {
    "embedding": (lambda: nn.Embedding(10, 8), "embeddings"),
    "bag": (lambda: nn.EmbeddingBag(10, 8), "embeddings"),
    "bag with sparse gradients": (lambda: nn.EmbeddingBag(10, 8, sparse=True), "embeddings"),
    "own embedding": (TokenEmbed, "embeddings"),
    "layer norm": (lambda: nn.LayerNorm([8, 4]), "norms"),
    "rms norm": (lambda: nn.RMSNorm([8, 4]), "norms"),
    "batch norm": (lambda: nn.BatchNorm2d(8), "norms"),
    "group norm": (lambda: nn.GroupNorm(2, 8), "norms"),
    "own norm": (RootMeanSquareNorm, "norms"),
    "subclass of a norm": (lambda: LayerNormChannelsFirst([8, 4]), "norms"),
    "no convolution": (ConvGRN, "vectors"),
}


@pytest.mark.parametrize(("make", "kind"), KINDS.values(), ids=KINDS)
def test_embeddings_and_norms_by_kind_of_module(make, kind):
    model = Named(fc=linear(), x=make())
    assert sparse_in(model) == {"fc.weight"}
    assert {why.kind for name, why in dense_by_default(model).items()} == {kind}


def test_a_linear_layer_called_after_norms_is_none():
    assert sparse_in(Named(fc=linear(), x=NormLinear(8, 8, bias=False))) == {
        "fc.weight",
        "x.weight",
    }


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("shares", ["parameter", "memory"])
def test_what_is_tied_to_an_embedding_stays_dense(order, shares):
    table, out = nn.Embedding(10, 8), linear(8, 10)
    out.weight = table.weight if shares == "parameter" else nn.Parameter(table.weight.detach())
    outs = nn.ModuleList([Named(proj=out)])  # not a head, because it is inside a block
    parts = [("table", table), ("blocks", blocks()), ("outs", outs)][::order]
    model = Named(**dict(parts))
    before = table.weight.detach().clone()
    assert sparse_in(model) == BLOCKS
    assert torch.equal(table.weight, before)


class Declared(Named):
    def get_output_embeddings(self):
        return self.last


class Timm(Named):
    def get_classifier(self):
        return self.one, self.two


class NeedsArguments(Named):
    def get_classifier(self, kind):
        return self.last


HEADS = {
    "declared": (lambda: Declared(blocks=blocks(), last=linear(), fc2=linear()), {"fc2.weight"}),
    "two declared": (lambda: Timm(blocks=blocks(), one=linear(), two=linear()), set()),
    "another method": (lambda: NeedsArguments(blocks=blocks(), last=linear()), {"last.weight"}),
    "none": (lambda: Declared(blocks=blocks(), last=None), set()),
    "over the vocabulary": (
        lambda: Named(wte=nn.Embedding(10, 8), blocks=blocks(), out=linear(8, 10)),
        set(),
    ),
    "another width": (
        lambda: Named(wte=nn.Embedding(10, 4), up=linear(4, 8), blocks=blocks(), out=linear(8, 10)),
        {"up.weight"},
    ),
    "over the vocabulary, before the blocks": (
        lambda: Named(out=linear(8, 10), wte=nn.Embedding(10, 8), blocks=blocks()),
        set(),
    ),
    "positions are no vocabulary": (
        lambda: Named(wpe=nn.Embedding(8, 8), blocks=blocks(), pool=linear(8, 8)),
        {"pool.weight"},
    ),
    "head": (lambda: Named(blocks=blocks(), head=linear()), set()),
    "several": (
        lambda: Named(blocks=blocks(), policy_head=linear(), value_head=linear(8, 1)),
        set(),
    ),
    "tasks": (
        lambda: Named(blocks=blocks(), heads=nn.ModuleDict({"a": linear(), "b": linear()})),
        set(),
    ),
    "numbers": (lambda: Named(blocks=blocks(), head1=linear(), classifier_2=linear()), set()),
    "last of a classifier": (
        lambda: Named(blocks=blocks(), classifier=nn.Sequential(linear(), nn.ReLU(), linear())),
        {"classifier.0.weight"},
    ),
    "fc after blocks": (lambda: Named(blocks=blocks(), fc=linear()), set()),
    "fc before blocks": (lambda: Named(fc=linear(), blocks=blocks()), {"fc.weight"}),
    "heads of attention": (
        lambda: Named(blocks=blocks(), attention=Named(heads=nn.ModuleList([linear(), linear()]))),
        {"attention.heads.0.weight", "attention.heads.1.weight"},
    ),
}


@pytest.mark.parametrize(("make", "others"), HEADS.values(), ids=HEADS)
def test_output_heads_stay_dense(make, others):
    assert sparse_in(make()) == BLOCKS | others


def test_heads_of_models_in_a_model():
    def one():
        return Named(wte=nn.Embedding(10, 8), blocks=blocks(), out=linear(8, 10))

    def two():
        return Named(blocks=blocks(), fc=linear())

    model = Named(a=one(), b=two(), c=one())
    assert sparse_in(model) == {f"{part}.{name}" for part in "abc" for name in BLOCKS}


def test_fc_without_blocks_and_a_model_that_is_one_layer_are_no_heads():
    assert sparse_in(Named(conv=nn.Conv2d(3, 8, 3), fc=linear())) == {"conv.weight", "fc.weight"}
    assert sparse_in(Named(head=linear())) == {"head.weight"}
    assert kind_of(Named(body=linear(), head=linear()), "head.weight") == "output heads"


def test_routers_stay_dense_and_gates_of_other_layers_do_not():
    experts = nn.ModuleList(Named(gate=linear(), gate_proj=linear()) for _ in range(2))
    model = Named(
        moe=Named(gate=linear(8, 2), w_gate=torch.randn(8, 2), experts=experts),
        glu=Named(gate=linear(), up=linear()),
        router=Named(classifier=linear(8, 2)),
    )
    routers = {name for name, why in dense_by_default(model).items() if why.kind == "routers"}
    assert routers == {"moe.gate.weight", "moe.w_gate", "router.classifier.weight"}
    assert len(sparse_in(model)) == 6


def test_adapters_and_what_they_are_put_on_stay_dense():
    base = linear().requires_grad_(False)
    adapted = Named(
        base_layer=base,
        lora_A=nn.ModuleDict({"default": linear(8, 2)}),
        lora_B=nn.ModuleDict({"default": linear(2, 8)}),
        lora_embedding_A=torch.randn(2, 8),
    )
    model = Named(q=adapted, other=linear())
    assert sparse_in(model) == {"other.weight"}
    assert kind_of(model, "q.lora_A.default.weight") == "adapters"
    assert kind_of(model, "q.base_layer.weight") == "frozen weights"


@pytest.mark.parametrize(
    "name",
    ["pos_embed", "rel_pos_h", "reg_token", "relative_position_bias_table", "A_log", "scale"],
)
def test_positions_tokens_and_scales_by_the_name_of_the_parameter_itself(name):
    model = Named(fc=linear(), **{name: torch.ones(4, 8)}, W=torch.ones(4, 8))
    assert sparse_in(model) == {"fc.weight", "W"}
    inside = Named(**{name: Named(W=torch.ones(4, 8))})
    assert sparse_in(inside) == {f"{name}.W"}


def test_words_in_full_names_are_the_last_thing():
    model = Named(
        embedding=Named(a=linear()), norm=linear(), lm_head=linear(), pe_helper=linear(), b=linear()
    )
    assert sparse_in(model) == {"b.weight"}


PARAMETRIZED = {
    "weight norm": (parametrizations.weight_norm, {"original1"}),
    "spectral norm": (parametrizations.spectral_norm, {"original"}),
}


@pytest.mark.parametrize("layer", [linear, lambda: nn.Conv2d(8, 8, 3), lambda: linear(8, 1)])
@pytest.mark.parametrize(("wrap", "own"), PARAMETRIZED.values(), ids=PARAMETRIZED)
def test_parametrized_layers(wrap, own, layer):
    model = nn.Sequential(linear(), wrap(layer()))
    expected = {f"1.parametrizations.weight.{name}" for name in own}
    assert sparse_in(model) == {"0.weight"} | expected
    weight = model[1].weight
    trained = model.get_parameter(expected.pop())
    assert not weight[trained == 0].any()
    assert (weight == 0).float().mean() == pytest.approx(0.5, abs=0.01)


class Symmetric(nn.Module):
    def forward(self, x):
        return x.triu() + x.triu(1).T


def symmetric(layer):
    nn.utils.parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


@pytest.mark.parametrize("wrap", [parametrizations.orthogonal, symmetric])
def test_a_parametrization_with_other_zeros(wrap, caplog):
    for size in (7, 8):
        model = nn.Sequential(linear(), wrap(linear(size, size)))
        assert sparse_in(model) == {"0.weight"}
        assert kind_of(model, "1.parametrizations.weight.original") == "parametrized"
    assert "original" not in caplog.text
    named = sparse.Group({"1.*original": sparse.Static(0.5)})
    named.apply(model)
    assert list(named.sparse_params) == ["1.parametrizations.weight.original"]
    text = "1.parametrizations.weight.original becomes sparse, but its parametrization does not"
    assert text in caplog.text


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm`:FutureWarning")
def test_layers_under_the_older_normalizations():
    for wrap, name in ((nn.utils.weight_norm, "weight_v"), (nn.utils.spectral_norm, "weight_orig")):
        assert sparse_in(nn.Sequential(linear(), wrap(linear()))) == {"0.weight", f"1.{name}"}


def test_an_embedding_is_one_under_a_parametrization_too():
    model = Named(fc=linear(), x=parametrizations.spectral_norm(nn.Embedding(10, 8)))
    assert sparse_in(model) == {"fc.weight"}


def test_a_compressed_layer_keeps_its_role():
    model = Named(blocks=blocks(), head=linear(), fc2=linear())
    first = sparse.Group({"*": sparse.Static(0.5, storage="compressed")})
    first.apply(model)
    dense = dense_by_default(model)
    assert dense.keys() == {"head.weight"}
    assert dense_by_default(copy.deepcopy(model)) == dense


def test_an_adaptive_softmax_is_an_output_head():
    model = Named(fc=linear(), loss=nn.AdaptiveLogSoftmaxWithLoss(16, 50, [5, 20]))
    assert sparse_in(model) == {"fc.weight"}
    assert kind_of(model, "loss.tail.0.1.weight") == "output heads"
