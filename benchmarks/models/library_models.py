"""Networks of transformers with random weights, by the names of `benchmarks.models.settings`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

CLASSES = 100


def _decoder(config: Any, width: int, layers: int, **others: Any) -> Any:
    """A configuration as of Llama: grouped heads and gated layers."""
    return config(
        vocab_size=30522,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 128,
        intermediate_size=8 * width // 3,
        use_cache=False,
        **others,
    )


def _encoder(config: Any, width: int, layers: int, **others: Any) -> Any:
    """A configuration as of BERT."""
    return config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        **others,
    )


_WORDS: dict[str, Any] = {"vocab_size": 30522, "max_position_embeddings": 1100}


def _llama(hf: Any, width: int, layers: int) -> Any:
    return hf.LlamaForCausalLM(_decoder(hf.LlamaConfig, width, layers))


def _mixtral(hf: Any, width: int, layers: int) -> Any:
    return hf.MixtralForCausalLM(_decoder(hf.MixtralConfig, width, layers, num_local_experts=4))


def _olmoe(hf: Any, width: int, layers: int) -> Any:
    """Sixteen experts as wide as the states, of which each token uses four."""
    config = _decoder(hf.OlmoeConfig, width, layers, num_experts=16, num_experts_per_tok=4)
    config.intermediate_size = width
    return hf.OlmoeForCausalLM(config)


def _qwen3_moe(hf: Any, width: int, layers: int) -> Any:
    """Eight experts as wide as the states, of which each token uses two."""
    config = _decoder(hf.Qwen3MoeConfig, width, layers, num_experts=8, num_experts_per_tok=2)
    config.moe_intermediate_size, config.head_dim = width, 64
    return hf.Qwen3MoeForCausalLM(config)


def _qwen2(hf: Any, width: int, layers: int) -> Any:
    return hf.Qwen2ForCausalLM(_decoder(hf.Qwen2Config, width, layers))


def _mistral(hf: Any, width: int, layers: int) -> Any:
    return hf.MistralForCausalLM(_decoder(hf.MistralConfig, width, layers))


def _gemma2(hf: Any, width: int, layers: int) -> Any:
    return hf.Gemma2ForCausalLM(_decoder(hf.Gemma2Config, width, layers, head_dim=64))


def _gpt_neox(hf: Any, width: int, layers: int) -> Any:
    config = _encoder(hf.GPTNeoXConfig, width, layers, use_cache=False, **_WORDS)
    return hf.GPTNeoXForCausalLM(config)


def _roberta(hf: Any, width: int, layers: int) -> Any:
    return hf.RobertaForMaskedLM(_encoder(hf.RobertaConfig, width, layers, **_WORDS))


def _mpnet(hf: Any, width: int, layers: int) -> Any:
    return hf.MPNetForMaskedLM(_encoder(hf.MPNetConfig, width, layers, **_WORDS))


def _electra(hf: Any, width: int, layers: int) -> Any:
    config = _encoder(hf.ElectraConfig, width, layers, embedding_size=width, **_WORDS)
    return hf.ElectraForMaskedLM(config)


def _albert(hf: Any, width: int, layers: int) -> Any:
    return hf.AlbertForMaskedLM(_encoder(hf.AlbertConfig, width, layers, **_WORDS))


def _deberta_v2(hf: Any, width: int, layers: int) -> Any:
    relative: dict[str, Any] = {
        "relative_attention": True,
        "position_buckets": 256,
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
    }
    config = _encoder(hf.DebertaV2Config, width, layers, **relative, **_WORDS)
    return hf.DebertaV2ForMaskedLM(config)


def _bloom(hf: Any, width: int, layers: int) -> Any:
    config = hf.BloomConfig(
        vocab_size=30522, hidden_size=width, n_layer=layers, n_head=width // 64, use_cache=False
    )
    return hf.BloomForCausalLM(config)


def _opt(hf: Any, width: int, layers: int) -> Any:
    config = hf.OPTConfig(
        vocab_size=30522,
        hidden_size=width,
        word_embed_proj_dim=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        ffn_dim=4 * width,
        use_cache=False,
    )
    return hf.OPTForCausalLM(config)


def _bart(hf: Any, width: int, layers: int) -> Any:
    config = hf.BartConfig(
        vocab_size=30522,
        d_model=width,
        encoder_layers=layers // 2,
        decoder_layers=layers // 2,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_position_embeddings=1100,
        use_cache=False,
    )
    return hf.BartForConditionalGeneration(config)


def _t5(hf: Any, width: int, layers: int) -> Any:
    config = hf.T5Config(
        d_model=width,
        d_ff=4 * width,
        num_layers=layers // 2,
        num_heads=width // 64,
        vocab_size=30522,
        use_cache=False,
        decoder_start_token_id=0,
    )
    return hf.T5ForConditionalGeneration(config)


def _vit(hf: Any, width: int, layers: int) -> Any:
    return hf.ViTForImageClassification(_encoder(hf.ViTConfig, width, layers, num_labels=CLASSES))


def _deit(hf: Any, width: int, layers: int) -> Any:
    config = _encoder(hf.DeiTConfig, width, layers, num_labels=CLASSES)
    return hf.DeiTForImageClassification(config)


def _dinov2(hf: Any, width: int, layers: int) -> Any:
    config = _encoder(hf.Dinov2Config, width, layers, image_size=224, num_labels=CLASSES)
    return hf.Dinov2ForImageClassification(config)


def _gpt2(hf: Any, width: int, layers: int) -> Any:
    """With 24 layers of 1024, GPT-2 medium: 355 million parameters."""
    config = hf.GPT2Config(n_embd=width, n_layer=layers, n_head=width // 64, use_cache=False)
    return hf.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")


# Networks of transformers that predict a class for each token, or for each image.
LIBRARY_MODELS: dict[str, Callable[[Any, int, int], Any]] = {
    "albert": _albert,
    "bart": _bart,
    "bloom": _bloom,
    "causal_gpt2": _gpt2,
    "deberta_v2": _deberta_v2,
    "deit": _deit,
    "dinov2": _dinov2,
    "electra": _electra,
    "gemma2": _gemma2,
    "gpt_neox": _gpt_neox,
    "llama": _llama,
    "mistral": _mistral,
    "mixtral": _mixtral,
    "mpnet": _mpnet,
    "olmoe": _olmoe,
    "opt": _opt,
    "qwen2": _qwen2,
    "qwen3_moe": _qwen3_moe,
    "roberta": _roberta,
    "t5": _t5,
    "vit": _vit,
}
SEES = ("vit", "deit", "dinov2")


class Library(nn.Module):
    """A network from transformers with random weights, without its own loss."""

    def __init__(self, kind: str, width: int, layers: int) -> None:
        super().__init__()
        import transformers

        self.kind, self.net = kind, LIBRARY_MODELS[kind](transformers, width, layers)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.kind in SEES:
            return self.net(inputs).logits
        if self.kind in ("t5", "bart"):
            return self.net(input_ids=inputs, decoder_input_ids=inputs).logits
        return self.net(input_ids=inputs).logits
