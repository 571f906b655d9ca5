"""The learned weighter: padding, gradients, other tokenizers, and its folder."""

import json
import math

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from taskloom.errors import RunError, UserError
from taskloom.online.spans import token_spans
from taskloom.online.weighters import LearnedWeighter, TfIdfWeighter
from taskloom.online.weighters.carry import carry_matrix
from tests.adapters.language_models import VOCABULARY, language_model
from tests.online.small_tokenizers import small_tokenizer

FAMILIES = ["gpt2", "llama", "gpt_neox", "qwen3"]


def weighter(family="gpt2", **options) -> LearnedWeighter:
    """Return a weighter with a random last layer, in float64, whose weights differ from token to token."""
    made = LearnedWeighter(language_model(family), small_tokenizer("byte_level"), width=8, **options).double().eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(made.head[-1].weight)
    return made


def body_for(kind: str, seed: int = 0, positions: int = 256) -> GPT2LMHeadModel:
    torch.manual_seed(seed)
    size = len(small_tokenizer(kind))
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=positions, initializer_range=0.3, **ends
        )
    ).eval()


def batch(lengths, left=False):
    generator = torch.Generator().manual_seed(0)
    ids = [torch.randint(3, VOCABULARY, (length,), generator=generator) for length in lengths]
    width = max(lengths)
    input_ids, mask = torch.zeros(len(ids), width, dtype=torch.long), torch.zeros(len(ids), width, dtype=torch.long)
    for row, tokens in enumerate(ids):
        place = slice(width - len(tokens), width) if left else slice(0, len(tokens))
        input_ids[row, place], mask[row, place] = tokens, 1
    return input_ids, mask


@pytest.mark.parametrize("family", FAMILIES)
class TestPadding:
    @pytest.mark.parametrize("left", [False, True])
    def test_weights_do_not_depend_on_padding_or_the_batch(self, family, left):
        model = weighter(family)
        input_ids, mask = batch([7, 3, 5], left)
        together = model(input_ids, mask)
        assert together.shape == mask.shape
        assert (together[mask == 0] == 0).all()
        for row in range(3):
            alone = model(input_ids[row : row + 1, mask[row] == 1], torch.ones(1, int(mask[row].sum())))
            torch.testing.assert_close(together[row, mask[row] == 1], alone[0])
        assert together[mask == 1].std() > 1e-3  # the head does something

    def test_only_what_came_before_counts(self, family):
        model = weighter(family)
        input_ids, mask = batch([7])
        changed = input_ids.clone()
        changed[0, 4] = 3 + (changed[0, 4] - 2) % (VOCABULARY - 3)
        before, after = model(input_ids, mask), model(changed, mask)
        torch.testing.assert_close(before[0, :4], after[0, :4])
        assert not torch.isclose(before[0, 4:], after[0, 4:]).any()


class TestHead:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_starts_with_the_same_weight_everywhere(self, family):
        input_ids, mask = batch([6, 2])
        weights = LearnedWeighter(language_model(family), small_tokenizer("byte_level")).double()(input_ids, mask)
        expected = mask * math.log(2) / 3
        torch.testing.assert_close(weights, expected.double())

    def test_against_the_equations(self):
        model = weighter("llama", beta=2.0)
        input_ids, mask = batch([6])
        hidden = language_model("llama").model(input_ids=input_ids).last_hidden_state
        first, _, last = model.head
        inner = hidden @ first.weight.T + first.bias
        inner = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
        outputs = (inner @ last.weight.T + last.bias)[..., 0]
        torch.testing.assert_close(model(input_ids, mask), torch.log1p(torch.exp(2 * outputs)) / 2)
        for activation, function in {"sigmoid": torch.sigmoid, "exp": torch.exp, None: lambda x: x}.items():
            model.activation = activation
            torch.testing.assert_close(model(input_ids, mask), function(outputs))

    def test_normalised_weights_add_up_to_the_number_of_tokens(self):
        input_ids, mask = batch([7, 3, 5])
        plain, scaled = weighter()(input_ids, mask), weighter(normalize=True)(input_ids, mask)
        torch.testing.assert_close(scaled.sum(1), mask.sum(1).double())
        torch.testing.assert_close(scaled / scaled[:, :1], plain / plain[:, :1])

    def test_document_without_tokens_has_no_weights(self):
        for normalize in (False, True):
            model = weighter(normalize=normalize)
            input_ids, mask = batch([4, 2])
            mask[1] = 0
            weights = model(input_ids, mask)
            assert (weights[1] == 0).all()
            weights.sum().backward()
            assert all(
                parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.grad is not None
            )

    def test_document_longer_than_the_body_reads(self):
        model = LearnedWeighter(body_for("byte_level", positions=8), small_tokenizer("byte_level")).eval()
        torch.nn.init.normal_(model.head[-1].weight)
        ids = torch.arange(10, 30)[None]
        weights = model(ids, torch.ones_like(ids))
        parts = [model(part, torch.ones_like(part)) for part in ids.split(8, dim=1)]
        torch.testing.assert_close(weights, torch.cat(parts, dim=1))


class TestGradients:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_reach_the_whole_body(self, family):
        model = weighter(family)
        model(*batch([6, 3])).square().sum().backward()
        idle = [name for name, parameter in model.named_parameters() if parameter.grad is None]
        assert idle == []

    def test_do_not_reach_a_frozen_body(self):
        model = weighter(freeze_base=True)
        model(*batch([6, 3])).square().sum().backward()
        trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert trained == {f"head.{part}" for part in ("0.weight", "0.bias", "2.weight", "2.bias")}
        assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained


class TestOptions:
    def test_refused(self):
        tokenizer = small_tokenizer("byte_level")
        with pytest.raises(ValueError, match="`backbone` must be a causal language model, found t5"):
            LearnedWeighter(language_model("t5"), tokenizer)
        with pytest.raises(ValueError, match=r"`activation` must be one of .* found 'relu'"):
            LearnedWeighter(language_model("gpt2"), tokenizer, activation="relu")  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="`normalize` needs weights above 0"):
            LearnedWeighter(language_model("gpt2"), tokenizer, activation=None, normalize=True)
        with pytest.raises(ValueError, match="`width` and `beta` must be above 0"):
            LearnedWeighter(language_model("gpt2"), tokenizer, beta=0.0)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_first_layers(self, family, tmp_path):
        full = language_model(family, dtype=torch.float32)
        full.save_pretrained(tmp_path)
        small_tokenizer("byte_level").save_pretrained(tmp_path)
        model = LearnedWeighter.from_backbone(str(tmp_path), layers=2, width=4)
        ids, mask = batch([6])
        # The state before the last normalisation is the full model's after two blocks.
        states = full.base_model(ids, output_hidden_states=True).hidden_states
        torch.testing.assert_close(model.body(ids, output_hidden_states=True).hidden_states[1], states[1])
        model.save(tmp_path / "weighter")
        again = LearnedWeighter.load(tmp_path / "weighter")
        assert torch.equal(again(ids, mask), model.eval()(ids, mask))
        assert sum(p.numel() for p in model.body.parameters()) < sum(p.numel() for p in full.base_model.parameters())
        with pytest.raises(UserError, match="must be from 1 to 3"):
            LearnedWeighter.from_backbone(str(tmp_path), layers=4)


class TestCarryMatrix:
    """Text of ten characters; what each target token takes from each source token, by hand."""

    @pytest.mark.parametrize(
        ("source", "target", "expected"),
        [
            ([[0, 4], [4, 10]], [[0, 4], [4, 10]], [[1, 0], [0, 1]]),
            ([[0, 4], [4, 10]], [[0, 2], [2, 6], [6, 10]], [[1, 0], [0.5, 0.5], [0, 1]]),
            ([[0, 2], [2, 3], [3, 10]], [[0, 10]], [[0.2, 0.1, 0.7]]),
            ([[0, 4], [5, 10]], [[0, 5], [5, 10]], [[0.8, 0.2], [0, 1]]),  # the space is the second's
            ([[1, 4], [4, 8]], [[0, 1], [8, 10]], [[1, 0], [0, 1]]),  # both ends of the text
            ([[0, 1], [0, 1], [1, 10]], [[0, 1], [0, 2]], [[0.5, 0.5, 0], [0.25, 0.25, 0.5]]),  # a split character
            ([[0, 0], [0, 10], [0, 0]], [[0, 0], [0, 5], [5, 5]], [[0, 0, 0], [0, 1, 0], [0, 0, 0]]),  # specials
            ([[0, 0]], [[0, 10]], [[0]]),
        ],
    )
    def test_by_hand(self, source, target, expected):
        torch.testing.assert_close(
            torch.from_numpy(carry_matrix(source, target, 10).toarray()), torch.tensor(expected, dtype=torch.float64)
        )

    def test_empty(self):
        assert carry_matrix([], [[0, 0]], 0).shape == (1, 0)


class TestOtherTokenizer:
    TEXTS = ("The quick brown fox isn't lazy.", "日本 😀 Zoë!", "")

    def encoded(self, tokenizer):
        return tokenizer(list(self.TEXTS), return_tensors="pt", padding=True)

    @pytest.mark.parametrize("own", ["byte_level", "sentencepiece"])
    @pytest.mark.parametrize("base", ["unigram", "word_piece", "words"])
    def test_constant_weights_stay_and_padding_has_none(self, own, base):
        model = LearnedWeighter(body_for(own), small_tokenizer(own), for_tokenizer=small_tokenizer(base))
        inputs = self.encoded(small_tokenizer(base))
        weights = model(inputs.input_ids.long(), inputs.attention_mask)
        # The token that begins each text, a marker put before it, and unknown ones stand for no text.
        spans = [token_spans(row.tolist(), small_tokenizer(base))[1] for row in inputs.input_ids]
        visible = torch.tensor([[end > start for start, end in row] for row in spans])
        assert visible.sum() >= 6
        torch.testing.assert_close(weights, torch.where(visible, math.log(2) / 3, 0.0))

    def test_each_row_as_alone_and_as_by_the_matrix(self):
        own, base = small_tokenizer("byte_level"), small_tokenizer("unigram")
        model = LearnedWeighter(body_for("byte_level"), own, for_tokenizer=base).eval()
        torch.nn.init.normal_(model.head[-1].weight)
        plain = LearnedWeighter(model.body, own).eval()
        plain.head = model.head
        inputs = self.encoded(base)
        together = model(inputs.input_ids, inputs.attention_mask)
        for row, text in enumerate(self.TEXTS[:1]):
            encoded, target = own(text, return_offsets_mapping=True), base(text, return_offsets_mapping=True)
            own_weights = plain(torch.tensor([encoded.input_ids]), torch.ones(1, len(encoded.input_ids)))[0]
            matrix = carry_matrix(encoded.offset_mapping, target.offset_mapping, len(text)).toarray()
            real = inputs.attention_mask[row] == 1
            got = together[row, real][2:]  # behind <s> and the marker that is put before each text
            wanted = torch.from_numpy(matrix).float() @ own_weights
            # Offsets leave out a token's leading space, which is the following word's anyway.
            torch.testing.assert_close(got, wanted[2:], rtol=1e-4, atol=1e-5)

    def test_gradients_come_back(self):
        model = LearnedWeighter(
            body_for("byte_level"), small_tokenizer("byte_level"), for_tokenizer=small_tokenizer("unigram")
        )
        torch.nn.init.normal_(model.head[-1].weight)
        inputs = self.encoded(small_tokenizer("unigram"))
        model(inputs.input_ids, inputs.attention_mask).square().sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_normalised_over_the_tokens_of_the_input(self):
        model = LearnedWeighter(
            body_for("byte_level"),
            small_tokenizer("byte_level"),
            for_tokenizer=small_tokenizer("word_piece"),
            normalize=True,
        )
        inputs = self.encoded(small_tokenizer("word_piece"))
        weights = model(inputs.input_ids, inputs.attention_mask)
        torch.testing.assert_close(weights.sum(1)[:1], inputs.attention_mask.sum(1)[:1].float())
        assert weights[2].sum() == 0  # a text of nothing

    def test_equal_tokenizer_is_no_other(self):
        model = LearnedWeighter(
            body_for("unigram"), small_tokenizer("unigram"), for_tokenizer=small_tokenizer("unigram")
        )
        assert model.for_tokenizer is None


class TestFolder:
    def saved(self, folder, family="gpt2", **options):
        model = weighter(family, **options)
        model.save(folder)
        return model

    @pytest.mark.parametrize("family", FAMILIES)
    def test_round_trip_is_bit_equal(self, family, tmp_path):
        options = {"normalize": True, "activation": "exp", "beta": 1.5, "freeze_base": True}
        model = self.saved(tmp_path / "w", family, **options)
        again = LearnedWeighter.load(tmp_path / "w")
        assert torch.equal(model(*batch([6, 3])), again(*batch([6, 3])))
        assert {name: getattr(again, name) for name in options} == options
        assert not any(parameter.requires_grad for parameter in again.body.parameters())
        assert again.tokenizer("the dog 日本").input_ids == model.tokenizer("the dog 日本").input_ids
        assert sorted(file.name for file in tmp_path.iterdir()) == ["w"]

    def test_plain_language_model(self, tmp_path):
        language_model("llama").save_pretrained(tmp_path)
        with pytest.raises(
            RunError, match=r"holds a plain llama model, not a weighter. A learned weighter's folder is"
        ):
            LearnedWeighter.load(tmp_path)

    def test_other_kind(self, tmp_path):
        TfIdfWeighter(small_tokenizer("unigram"), ["the dog", "the fox"]).save(tmp_path / "w")
        with pytest.raises(RunError, match=r"holds a tfidf weighter. A learned weighter's folder is needed"):
            LearnedWeighter.load(tmp_path / "w")

    def test_nothing_there(self, tmp_path):
        with pytest.raises(RunError, match="none: does not exist"):
            LearnedWeighter.load(tmp_path / "none")
        with pytest.raises(RunError, match=r"holds no config\.json"):
            LearnedWeighter.load(tmp_path)

    @pytest.mark.parametrize("missing", ["model.safetensors", "tokenizer.json"])
    def test_missing_file(self, missing, tmp_path):
        self.saved(tmp_path / "w")
        (tmp_path / "w" / missing).unlink()
        with pytest.raises(RunError, match=r"holds no (model.safetensors|tokenizer)"):
            LearnedWeighter.load(tmp_path / "w")

    def test_damaged_files(self, tmp_path):
        self.saved(tmp_path / "w")
        file = tmp_path / "w" / "model.safetensors"
        file.write_bytes(file.read_bytes()[:100])
        with pytest.raises(RunError, match="It is damaged"):
            LearnedWeighter.load(tmp_path / "w")
        (tmp_path / "w" / "config.json").write_text("{")
        with pytest.raises(RunError, match="is not JSON"):
            LearnedWeighter.load(tmp_path / "w")

    def test_checkpoint_of_another_architecture(self, tmp_path):
        self.saved(tmp_path / "a", "gpt2")
        self.saved(tmp_path / "b", "llama")
        (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
        with pytest.raises(
            RunError, match=r"with a gpt2 body, but .* of another architecture: it lacks 'body.h.0.attn"
        ):
            LearnedWeighter.load(tmp_path / "a")

    def test_checkpoint_of_another_width(self, tmp_path):
        self.saved(tmp_path / "a")
        config = json.loads((tmp_path / "a" / "config.json").read_text())
        (tmp_path / "a" / "config.json").write_text(json.dumps({**config, "width": 9}))
        with pytest.raises(RunError, match=r"has 'head.0.weight' of shape \[8, 16\], not \[9, 16\]"):
            LearnedWeighter.load(tmp_path / "a")

    def test_unknown_body(self, tmp_path):
        self.saved(tmp_path / "a")
        config = json.loads((tmp_path / "a" / "config.json").read_text())
        config["body"]["model_type"] = "no-such-model"
        (tmp_path / "a" / "config.json").write_text(json.dumps(config))
        with pytest.raises(RunError, match="no-such-model"):
            LearnedWeighter.load(tmp_path / "a")
