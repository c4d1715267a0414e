"""Real Hugging Face models under the monitor (extra `transformers`)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from energyest.profiling.describe import count_flops, describe_workload

transformers = pytest.importorskip("transformers")


def test_flops_of_a_bert_batch() -> None:
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
    )
    model = transformers.BertForSequenceClassification(config)
    batch = {
        "input_ids": torch.ones(4, 16, dtype=torch.long),
        "attention_mask": torch.ones(4, 16, dtype=torch.long),
        "labels": torch.zeros(4, dtype=torch.long),
    }
    count = count_flops(model, batch)
    # Per layer and token: four projections of 32 × 32, two of 32 × 64, attention over 16 tokens.
    per_token = 2 * 2 * (4 * 32 * 32 + 2 * 32 * 64 + 2 * 16 * 32)
    assert count.per_sample == pytest.approx(16 * per_token, rel=0.1), count.note


SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
DECODER = {**SMALL, "num_key_value_heads": 2, "use_cache": False}
SPEECH = {
    "vocab_size": 64,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "use_cache": False,
}
GPT2 = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "use_cache": False}
T5 = {"vocab_size": 64, "d_model": 32, "d_ff": 64, "num_layers": 2, "num_heads": 4, "d_kv": 8}
IMAGE = {"image_size": 32, "patch_size": 8}
WORDS = torch.arange(32).view(2, 16) % 60 + 3
TEXT = {"input_ids": WORDS, "labels": WORDS}
MASKED = {**TEXT, "attention_mask": torch.ones_like(WORDS)}
CLASS = {"input_ids": WORDS, "labels": torch.zeros(2, dtype=torch.long)}
SOUND = {"input_features": torch.rand(2, 16, 64), "labels": WORDS[:, :12]}
PICTURE = {"pixel_values": torch.rand(2, 3, 32, 32), "labels": torch.zeros(2, dtype=torch.long)}
MODELS: dict[str, tuple[str, dict[str, Any], dict[str, torch.Tensor]]] = {
    "gpt2": ("GPT2LMHeadModel", GPT2, TEXT),
    "llama": ("LlamaForCausalLM", DECODER, TEXT),
    "llama, mask": ("LlamaForCausalLM", DECODER, MASKED),
    "mistral": ("MistralForCausalLM", DECODER, TEXT),
    "qwen2": ("Qwen2ForCausalLM", DECODER, TEXT),
    "gemma": ("GemmaForCausalLM", {**DECODER, "head_dim": 8}, MASKED),
    "mixtral": ("MixtralForCausalLM", {**DECODER, "num_local_experts": 4}, TEXT),
    "mamba": ("MambaForCausalLM", {**SMALL, "state_size": 4, "use_cache": False}, TEXT),
    "bert": ("BertForSequenceClassification", SMALL, CLASS),
    "t5": ("T5ForConditionalGeneration", {**T5, "decoder_start_token_id": 0}, TEXT),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**SPEECH, "num_mel_bins": 16, "max_source_positions": 32},
        SOUND,
    ),
    "vit": ("ViTForImageClassification", {**SMALL, **IMAGE}, PICTURE),
}


def built(name: str, device: str, **options: Any) -> Any:
    kind = getattr(transformers, MODELS[name][0])
    with torch.device(device):
        return kind._from_config(kind.config_class(**MODELS[name][1]), **options).train()


@pytest.mark.parametrize("name", MODELS)
def test_models_as_their_trainer_runs_them(name: str) -> None:
    batch = MODELS[name][2]
    plain = describe_workload(built(name, "cpu"), batch)
    on_meta = built(name, "meta")
    empty = {key: value.to("meta") for key, value in batch.items()}
    assert describe_workload(on_meta, empty).operations == plain.operations
    # Other rules for shapes know no fused experts, and count norms otherwise.
    if "mixtral" not in name:
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            built(name, "cpu")(**batch)
        forward = plain.forward_flops_per_sample * 2
        assert counter.get_total_flops() <= forward < 1.05 * counter.get_total_flops()
    for reentrant in (True, False):
        on_meta.gradient_checkpointing_enable({"use_reentrant": reentrant})
        again = describe_workload(on_meta, empty)
        assert again.flops_per_step > 1.1 * plain.flops_per_step
        assert again.saved_bytes < plain.saved_bytes


def test_all_ways_to_compute_experts_count_the_same() -> None:
    found = {
        describe_workload(built("mixtral", device, experts_implementation=how), TEXT).flops_per_step
        for how in ("eager", "grouped_mm", "batched_mm")
        for device in ("cpu", "meta")
    }
    assert len(found) == 1


@pytest.mark.parametrize("how", ["eager", "sdpa", "flex_attention"])
def test_ways_to_compute_attention(how: str) -> None:
    for device in ("cpu", "meta"):
        kind = transformers.LlamaForCausalLM
        with torch.device(device):
            config = transformers.LlamaConfig(**{**DECODER, "hidden_size": 64})
            model = kind._from_config(config, attn_implementation=how).train()
        assert describe_workload(model, MASKED).flops_per_step > 0
