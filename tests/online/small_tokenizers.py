"""Small tokenizers of every kind, trained on a few sentences."""

import json
from functools import cache

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("byte_level", "sentencepiece", "unigram", "word_piece", "words")

_SENTENCES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not jump over the fox.",
    "Zoë paid 3 € in São Paulo; it isn't much. Is it? 日本 and 中国 are far away.",
    "Barack Obama was born in Honolulu and visited New York on Monday.",
] * 4


@cache
def small_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of GPT-2's (byte_level), Llama 2's, T5's (unigram) or BERT's kind, or one of whole words."""
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    match kind:
        case "byte_level":
            backend = Tokenizer(models.BPE())
            backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            backend.decoder = decoders.ByteLevel()
            alphabet = pre_tokenizers.ByteLevel.alphabet()
            trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=special)
        case "sentencepiece":
            backend = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
            backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
            backend.decoder = decoders.Sequence(
                [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
            )
            fallback = [f"<0x{byte:02X}>" for byte in range(256)]
            # Of the letters only some are known; the others are spelt in bytes.
            trainer = trainers.BpeTrainer(vocab_size=420, limit_alphabet=40, special_tokens=[*special, *fallback])
        case "unigram":
            backend = Tokenizer(models.Unigram())
            backend.normalizer = normalizers.NFKC()
            backend.pre_tokenizer = pre_tokenizers.Metaspace()
            backend.decoder = decoders.Metaspace()
            trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
        case "word_piece":
            backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
            backend.normalizer = normalizers.BertNormalizer()
            backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            backend.decoder = decoders.WordPiece()
            trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special)
        case _:
            backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
            backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            trainer = trainers.WordLevelTrainer(special_tokens=special)
    backend.train_from_iterator(_SENTENCES, trainer)
    if kind == "sentencepiece":  # which the trainer has made special; Llama's are not
        fields = json.loads(backend.to_str())
        fields["added_tokens"] = [token for token in fields["added_tokens"] if not token["content"].startswith("<0x")]
        backend = Tokenizer.from_str(json.dumps(fields))
    if kind != "byte_level":
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
        )
    backend.add_tokens([AddedToken("<added>", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
