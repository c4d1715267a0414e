"""`EnergyCallback` with peft and TRL, whose trainers inherit from Hugging Face's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.huggingface import arguments, callback_of, causal_lm, make_trainer, samples

pytest.importorskip("transformers")


def test_lora(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    traces = []
    for is_lora in (False, True):
        model = causal_lm()
        if is_lora:
            options = peft.LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True)
            model = peft.get_peft_model(model, options)
        callback = callback_of()
        trainer = make_trainer(
            model,
            tmp_path / str(is_lora),
            callback,
            train_dataset=samples(labels="text"),
            label_names=["labels"],
            eval_strategy="no",
            save_strategy="epoch",
        )
        trainer.train()
        traces.append(callback.trace)
    full, lora = traces
    facts = lora.meta["model"]
    assert facts["trainable_parameters"] == 2 * 16 + 2 * 3 * 16
    assert facts["parameters"] > full.meta["model"]["parameters"]
    # The gradients of the frozen weights are not computed.
    assert full.meta["training_to_forward_flops"] == pytest.approx(3, abs=0.1)
    assert lora.meta["training_to_forward_flops"] == pytest.approx(2, abs=0.2)
    assert np.isfinite(lora.column("flops")).all()


def tokenizer() -> Any:
    """Of words that are numbers; nothing is downloaded."""
    import tokenizers
    import transformers

    words = {"<pad>": 0, "<eos>": 1, **{str(i): i + 2 for i in range(48)}}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<pad>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<eos>"
    )


def test_supervised_finetuning_by_trl(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    texts = [" ".join(str((i + j) % 40) for j in range(10)) for i in range(16)]
    data = datasets.Dataset.from_dict({"text": texts})
    logged = []
    for callbacks in ([], [callback_of()]):
        trainer = trl.SFTTrainer(
            causal_lm(),
            args=trl.SFTConfig(
                **arguments(tmp_path, bf16=False, max_length=16, eval_strategy="epoch")
            ),
            train_dataset=data,
            eval_dataset=data,
            processing_class=tokenizer(),
            callbacks=callbacks,
        )
        trainer.train()
        logged.append(
            [
                {n: v for n, v in entry.items() if not any(t in n for t in ("second", "runtime"))}
                for entry in trainer.state.log_history
                if not any(name.startswith("energy/") for name in entry)
            ]
        )
    trace = callbacks[0].trace
    assert list(trace.column("steps")) == [4, 4]
    assert list(trace.column("samples")) == [16, 16]
    assert (trace.column("validation_s") > 0).all()
    # It computes most of the forward pass twice, to save memory.
    assert 3.3 < trace.meta["training_to_forward_flops"] < 4
    # Its own averages over the steps between two logs are what they would be.
    assert logged[1] == logged[0]
    assert any("mean_token_accuracy" in entry for entry in logged[1])
