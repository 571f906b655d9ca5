"""Tiny tokenizers of several kinds, and text whose sentences say where they stand."""

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, WordLevel, WordPiece
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
#: How a kind of tokenizer writes one text and a pair.
TEMPLATES = {
    "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
    "t5": ("$A [SEP]", "$A [SEP] $B [SEP]"),
    "llama": ("[CLS] $A", "[CLS] $A [CLS] $B:1"),
    "gpt2": None,
}


def word_tokenizer(words: list[str], kind: str = "bert", **names: str | None) -> PreTrainedTokenizerFast:
    """One token a word, split at white space, so that token ids can be written down by hand."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *dict.fromkeys(words)])}
    backend = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if template := TEMPLATES[kind]:
        special = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
        backend.post_processor = TemplateProcessing(single=template[0], pair=template[1], special_tokens=special)
    return _fast(backend, types=kind in ("bert", "llama"), **names)


def piece_tokenizer(pieces: list[str], uncased: bool = False) -> PreTrainedTokenizerFast:
    """Word pieces from a given list, as BERT's; uncased ones also lose their accents."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *pieces])}
    backend = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=uncased, strip_accents=uncased)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _fast(backend)


def byte_tokenizer(text: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2's, trained until each word of `text` is one token; other letters stay bytes."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=1000, initial_alphabet=alphabet, special_tokens=SPECIAL, show_progress=False)
    backend.train_from_iterator([text] * 3, trainer)
    return _fast(backend)


def _fast(backend: Tokenizer, types: bool = False, **names: str | None) -> PreTrainedTokenizerFast:
    inputs = ["input_ids", "token_type_ids", "attention_mask"] if types else ["input_ids", "attention_mask"]
    names = {name: token for name, token in {**NAMES, **names}.items() if token is not None}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_input_names=inputs, model_max_length=64, **names)


def numbered_documents(lengths: list[int]) -> tuple[list[tuple[str]], list[str]]:
    """Return documents of so many sentences, sentence j of document i being "Di Sj .", and all their words."""
    documents = [(" ".join(f"D{i} S{j} ." for j in range(length)),) for i, length in enumerate(lengths)]
    words = [f"D{i}" for i in range(len(lengths))] + [f"S{j}" for j in range(max(lengths))] + ["."]
    return documents, words
