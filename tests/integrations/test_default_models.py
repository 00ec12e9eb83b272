"""Tables of the default sparse layers in known models, built on the meta device."""

import re

import pytest
import torch
import transformers

import sparsewright as sparse
from helpers.written_models import ConvNeXt, NanoGPT, ResNet

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 100,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
IMAGES = {key: SMALL[key] for key in list(SMALL)[:4]} | {"image_size": 32, "patch_size": 8}


def gpt2(kind="GPT2LMHeadModel"):
    config = transformers.GPT2Config(
        n_embd=32,
        n_layer=2,
        n_head=4,
        vocab_size=100,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=2,
    )
    return getattr(transformers, kind)(config)


def llama(kind="LlamaForCausalLM"):
    return getattr(transformers, kind)(transformers.LlamaConfig(**SMALL))


def mixtral():
    config = transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4)
    return transformers.MixtralForCausalLM(config)


def t5():
    sizes = {"d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}
    return transformers.T5ForConditionalGeneration(transformers.T5Config(**sizes, vocab_size=100))


def bert(kind="BertForMaskedLM"):
    config = transformers.BertConfig(**SMALL, max_position_embeddings=32)
    return getattr(transformers, kind)(config)


def vit():
    return transformers.ViTForImageClassification(transformers.ViTConfig(**IMAGES))


def resnet():
    sizes = {"embedding_size": 8, "hidden_sizes": [16, 32], "depths": [2, 2]}
    return transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes))


def convnext(version=""):
    config = getattr(transformers, f"ConvNext{version}Config")(
        hidden_sizes=[16, 32], depths=[2, 2], num_stages=2
    )
    return getattr(transformers, f"ConvNext{version}ForImageClassification")(config)


def each(prefix, *names):
    return {prefix + name for name in names}


NANO = each("h.*.", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
LLAMA_ATTENTION = each("layers.*.self_attn.", "q_proj", "k_proj", "v_proj", "o_proj")
LLAMA = LLAMA_ATTENTION | each("layers.*.mlp.", "gate_proj", "up_proj", "down_proj")
T5_ATTENTION = each("SelfAttention.", "q", "k", "v", "o")
T5_MLP = each("DenseReluDense.", "wi", "wo")
BERT = each("encoder.layer.*.", "intermediate.dense", "output.dense", "attention.output.dense")
BERT |= each("encoder.layer.*.attention.self.", "query", "key", "value")
CONVNEXT = each("encoder.stages.*.", "downsampling_layer.*")
CONVNEXT |= each("encoder.stages.*.layers.*.", "dwconv", "pwconv1", "pwconv2")

# Listed by layer; "*" stands for a number. Parameters other than `weight` end with their name.
TABLE = {
    "nanoGPT": (NanoGPT, each("transformer.", *NANO)),
    "nanoGPT, not tied": (lambda: NanoGPT(is_tied=False), each("transformer.", *NANO)),
    "GPT-2": (gpt2, each("transformer.", *NANO)),
    "GPT-2 without a head": (lambda: gpt2("GPT2Model"), NANO),
    "Llama": (llama, each("model.", *LLAMA)),
    "Llama, classifying": (
        lambda: llama("LlamaForSequenceClassification"),
        each("model.", *LLAMA),
    ),
    "Mixtral": (
        mixtral,
        each("model.", *LLAMA_ATTENTION)
        | each("model.layers.*.mlp.experts.", "gate_up_proj", "down_proj"),
    ),
    "T5": (
        t5,
        each("encoder.block.*.layer.*.", *T5_ATTENTION, *T5_MLP)
        | each("decoder.block.*.layer.*.", *T5_ATTENTION, *T5_MLP)
        | each("decoder.block.*.layer.*.EncDecAttention.", "q", "k", "v", "o"),
    ),
    "BERT": (bert, each("bert.", *BERT) | {"cls.predictions.transform.dense"}),
    "BERT, classifying": (
        lambda: bert("BertForSequenceClassification"),
        each("bert.", *BERT, "pooler.dense"),
    ),
    "BERT, answering": (lambda: bert("BertForQuestionAnswering"), each("bert.", *BERT)),
    "BERT without a head": (lambda: bert("BertModel"), BERT | {"pooler.dense"}),
    "ViT": (
        vit,
        each("vit.layers.*.attention.", "q_proj", "k_proj", "v_proj", "o_proj")
        | each("vit.layers.*.mlp.", "fc1", "fc2"),
    ),
    "ResNet": (
        resnet,
        {"resnet.embedder.embedder.convolution"}
        | each("resnet.encoder.stages.*.layers.*.", "shortcut.convolution", "layer.*.convolution"),
    ),
    "ResNet of torchvision": (
        ResNet,
        {"conv1"} | each("layer1.*.", "conv1", "conv2") | each("layer2.*.", "conv1", "conv2"),
    ),
    "ConvNeXt": (convnext, each("convnext.", *CONVNEXT)),
    "ConvNeXt V2": (lambda: convnext("V2"), each("convnextv2.", *CONVNEXT)),
    "ConvNeXt of timm": (
        ConvNeXt,
        {"stem.*"}
        | each("stages.*.", "downsample.*")
        | each("stages.*.blocks.*.", "conv_dw", "mlp.fc1", "mlp.fc2"),
    ),
}


@pytest.mark.parametrize(("make", "expected"), TABLE.values(), ids=TABLE)
def test_what_is_sparse_by_default(make, expected):
    with torch.device("meta"):
        model = make()
    algorithm = sparse.Static(0.9)
    algorithm.apply(model)
    layers = (name.removesuffix(".weight") for name in algorithm.sparse_params)
    assert {re.sub(r"\b\d+\b", "*", layer) for layer in layers} == expected
