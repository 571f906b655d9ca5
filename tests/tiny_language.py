"""Tiny random language models with a word-level tokenizer, in the hub's layout, for whole runs in seconds."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

WORDS = [
    *["the", "a", "film", "book", "meal", "was", "is", "good", "bad", "very", "not"],
    *["yes", "no", "true", "false", "so", "question", "answer", ":", "?"],
]
SPECIAL = ["<pad>", "</s>", "<unk>", "<s>"]
FAMILIES = ("t5", "gpt2", "llama")


def tiny_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """T5's kind ends every text with </s>; Llama's kind begins it with <s>; GPT-2's adds nothing and has no padding."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *WORDS])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()
    template = {"t5": ("$A </s>", [("</s>", 1)]), "llama": ("<s> $A", [("<s>", 3)])}.get(family)
    if template is not None:
        backend.post_processor = TemplateProcessing(single=template[0], special_tokens=template[1])
    padding = {} if family == "gpt2" else {"pad_token": "<pad>"}
    start = {"bos_token": "<s>"} if family == "llama" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", unk_token="<unk>", model_max_length=64, **padding, **start
    )


def tiny_language_model(family: str, seed: int = 0, dropout: float = 0.0):
    torch.manual_seed(seed)
    size = len(SPECIAL) + len(WORDS)
    ends = {"pad_token_id": 0, "eos_token_id": 1}
    match family:
        case "t5":
            return T5ForConditionalGeneration(
                T5Config(
                    vocab_size=size,
                    d_model=32,
                    d_kv=16,
                    d_ff=64,
                    num_layers=1,
                    num_heads=2,
                    dropout_rate=dropout,
                    decoder_start_token_id=0,
                    **ends,
                )
            )
        case "gpt2":
            return GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=size,
                    n_embd=32,
                    n_layer=2,
                    n_head=2,
                    n_positions=64,
                    resid_pdrop=dropout,
                    embd_pdrop=dropout,
                    attn_pdrop=dropout,
                    bos_token_id=1,
                    **ends,
                )
            )
        case _:
            return LlamaForCausalLM(
                LlamaConfig(
                    vocab_size=size,
                    hidden_size=32,
                    intermediate_size=64,
                    num_hidden_layers=2,
                    num_attention_heads=2,
                    num_key_value_heads=1,
                    max_position_embeddings=64,
                    bos_token_id=3,
                    **ends,
                )
            )


def save_tiny(family: str, folder: Path, **options) -> Path:
    tiny_language_model(family, **options).save_pretrained(str(folder))
    tiny_tokenizer(family).save_pretrained(str(folder))
    return folder
