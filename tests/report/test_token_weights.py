"""Documents coloured by token weights: the page's structure and the picture's colours."""

import math
import time
from html.parser import HTMLParser

import matplotlib.image
import numpy as np
import pytest

from taskloom.report.token_weights import PART, TokenWeights, token_weights_html, token_weights_png
from tests.online.small_tokenizers import small_tokenizer


class Page(HTMLParser):
    """Reads a page as a browser would: its elements, and the text of its tokens."""

    def __init__(self, html: str):
        super().__init__()
        self.elements, self.tokens, self._inside = [], [], False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "b":
            self.tokens.append("")
            self._inside = True

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "b"

    def handle_data(self, data):
        if self._inside:
            self.tokens[-1] += data

    def named(self, tag):
        return [fields for name, fields in self.elements if name == tag]


DOCUMENT = TokenWeights(
    "A <b>title</b>",
    ["The", " <script>", 'alert("&amp;")', "</script>", "\n", "שלום", " 日", PART],
    [0, 2, -1, 0.5, 1, 4, -4, 0],
)


class TestPage:
    def test_tokens_and_numbers(self):
        page = Page(token_weights_html([DOCUMENT], "Weights"))
        assert page.tokens == DOCUMENT.tokens
        tokens = page.named("b")
        assert [float(token["data-w"]) for token in tokens] == DOCUMENT.weights
        assert [float(token["style"].removeprefix("--a:")) for token in tokens] == [0, 0.5, 0.25, 0.125, 0.25, 1, 1, 0]
        assert [token["class"] for token in tokens] == list("npnpppnn")
        assert all(token["tabindex"] == "0" for token in tokens)

    def test_text_cannot_become_markup(self):
        page = Page(token_weights_html([DOCUMENT], "</title><script>"))
        assert page.named("script") == []
        assert len(page.named("b")) == len(DOCUMENT.tokens)

    def test_needs_nothing_but_itself(self):
        html = token_weights_html([DOCUMENT], "Weights")
        assert "http:" not in html
        assert "https:" not in html
        assert "url(" not in html
        assert not {"script", "link", "img", "iframe"} & {name for name, _ in Page(html).elements}

    def test_summary_and_direction(self):
        html = token_weights_html([DOCUMENT, DOCUMENT], "Weights")
        assert html.count("8 tokens; min -4, max 4, mean 0.3125") == 2
        assert {fields["dir"] for fields in Page(html).named("p") if fields["class"] == "document"} == {"auto"}

    def test_legend_goes_below_zero_only_with_the_weights(self):
        both, above = (token_weights_html([TokenWeights("t", ["a", "b"], [w, 2.0])], "Weights") for w in (-1.0, 1.0))
        assert ">-2<" in both
        assert ">2<" in both
        assert ">-2<" not in above
        assert ">2<" in above

    @pytest.mark.parametrize(
        ("weights", "said"),
        [([0.0, 0.0], "mean 0"), ([math.nan, 1.0], "1 not a finite number"), ([math.inf, -math.inf], "no weights")],
    )
    def test_odd_weights(self, weights, said, tmp_path):
        document = TokenWeights("odd", ["a", " b"], weights)
        assert said in token_weights_html([document], "Weights")
        assert token_weights_png(document, tmp_path / "odd.png").stat().st_size > 1000

    def test_no_tokens(self, tmp_path):
        document = TokenWeights("empty", [], [])
        assert "no weights" in token_weights_html([document], "Weights")
        token_weights_png(document, tmp_path / "empty.png")


class TestFromIds:
    @pytest.mark.parametrize("kind", ["byte_level", "sentencepiece", "unigram"])
    def test_tokens_make_up_the_text(self, kind):
        tokenizer = small_tokenizer(kind)
        ids = tokenizer("Zoë isn't 日本 😀.").input_ids
        document = TokenWeights.from_ids("t", ids, np.ones(len(ids)), tokenizer)
        special = set(tokenizer.all_special_tokens)
        shown = "".join(token for token in document.tokens if token not in special and token != PART)
        assert shown == tokenizer.decode(ids, skip_special_tokens=True)

    def test_parts_of_a_character_and_special_tokens(self):
        tokenizer = small_tokenizer("byte_level")
        ids = [tokenizer.bos_token_id, *tokenizer("😀").input_ids]
        assert TokenWeights.from_ids("t", ids, [1.0] * 5, tokenizer).tokens == ["<s>", "😀", PART, PART, PART]

    def test_lengths(self):
        with pytest.raises(ValueError, match="`weights` must have one for each of 1 tokens, found 2"):
            TokenWeights("t", ["a"], [1.0, 2.0])


class TestPicture:
    def test_colours(self, tmp_path):
        image = self.image(TokenWeights("$x_1$", ["a" * 20, "b" * 20, "c" * 20], [2.0, -2.0, 0.0]), tmp_path)
        tokens = image[int(image.shape[0] * 0.7) :]  # below the legend
        colours = {tuple(colour) for colour in tokens.reshape(-1, 3)}
        assert (255, 150, 60) in colours
        assert (105, 170, 255) in colours
        assert (255, 255, 255) in colours

    def test_long_document_grows_and_a_huge_one_is_cut(self, tmp_path):
        words = ["word", " in", " $a$", " paragraph\n"] * 256
        start = time.process_time()
        tall = self.image(TokenWeights("long", words, list(np.linspace(-1, 1, 1024))), tmp_path)
        assert time.process_time() - start < 20
        short = self.image(TokenWeights("short", words[:4], [1.0] * 4), tmp_path)
        assert tall.shape[0] > 5 * short.shape[0]
        assert tall.shape[1] == short.shape[1]
        huge = self.image(TokenWeights("huge", ["x\n"] * 3000, [1.0] * 3000), tmp_path)
        assert huge.shape[0] < 10_000

    def test_equal_input_gives_an_equal_file(self, tmp_path):
        first, second = token_weights_png(DOCUMENT, tmp_path / "a.png"), token_weights_png(DOCUMENT, tmp_path / "b.png")
        assert first.read_bytes() == second.read_bytes()

    def image(self, document, folder):
        file = token_weights_png(document, folder / "image.png")
        return (matplotlib.image.imread(file)[..., :3] * 255).round().astype(int)
