"""Windows over the contexts of questions: against the definition by brute force, and at their borders by hand."""

import itertools

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from taskloom.errors import DataError
from taskloom.tasks import Examples, Task, TaskSuite
from taskloom.tasks.spans import answer_spans
from taskloom.tasks.task import task_from_mapping
from taskloom.tasks.windows import answer_in, encode_windows, window_bounds
from tests.tiny_language import tiny_tokenizer

QUESTION = "question: Where does the river go? context: "
TEXTS = [
    "Die Limmat fließt durch Zürich, ehe sie in die Aare mündet. Zürich liegt am See.",
    "東京は日本の首都で、人口は約1400万人です。 Tōkyō — naïve café 👩‍🚀 fin",
    "[PAR] The river goes to the sea. [PAR] The sea is in the north , far away from here .",
]


def trained(kind: str) -> PreTrainedTokenizerFast:
    """T5's kind of tokenizer (word pieces that hold the space before) or GPT-2's (bytes), trained on a few lines."""
    backend = Tokenizer(models.BPE())
    if kind == "t5":
        backend.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Strip(left=False, right=True)])
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        alphabet = []
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=120 if kind == "t5" else 300, special_tokens=special, initial_alphabet=alphabet
    )
    backend.train_from_iterator([*TEXTS, QUESTION] * 3, trainer)
    if kind == "t5":
        backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


@pytest.fixture(scope="module", params=["t5", "gpt2"])
def tokenizer(request):
    return trained(request.param)


def is_t5(tokenizer) -> bool:
    return bool(tokenizer.num_special_tokens_to_add())


def published_windows(tokenizer, question, context, max_length, stride):
    """The published procedure, written plainly: question and context are tokenised apart, every chunk ends with 1."""
    head = tokenizer(question, add_special_tokens=False)["input_ids"]
    tokens = tokenizer(context, add_special_tokens=False)["input_ids"]
    room = max_length - len(head) - 1
    windows = []
    while True:
        windows.append([*head, *tokens[:room], 1])
        if len(tokens) <= room:
            return windows
        tokens = tokens[room - stride :]


@pytest.mark.parametrize("context", TEXTS)
def test_windows_are_the_published_ones(context):
    tokenizer = trained("t5")
    head = len(tokenizer(QUESTION, add_special_tokens=False)["input_ids"])
    batch = encode_windows([(QUESTION, context)], None, tokenizer, head + 10, 4, 8, decoder_only=False)
    assert batch.input_ids == published_windows(tokenizer, QUESTION, context, head + 10, 4)
    assert len(batch.input_ids) > 1
    assert batch.target_ids is None


@pytest.mark.parametrize("context", TEXTS)
@pytest.mark.parametrize("decoder_only", [False, True])
def test_windows_tell_their_characters_and_hold_the_answers_that_lie_in_them(tokenizer, context, decoder_only):
    head = len(tokenizer(QUESTION.rstrip(), add_special_tokens=False)["input_ids"])
    spans = [(start, end, context[start:end]) for start in range(len(context)) for end in (start + 1, start + 9)]
    spans = [span for span in spans if span[1] <= len(context) and not span[2].isspace()]
    for first in range(0, len(spans), 5):
        batch = encode_windows(
            [(QUESTION, context)], [spans[first:]], tokenizer, head + 13, 4, 20, decoder_only=decoder_only
        )
        for ids, (start, end), target in zip(batch.input_ids, batch.characters, batch.target_ids, strict=True):
            text = tokenizer.decode(ids, skip_special_tokens=True)
            if is_t5(tokenizer):  # pieces of characters of several bytes cannot be read back
                assert "".join(text.split()) == "".join(normal(QUESTION + context[start:end]).split())
            inside = [text for begin, stop, text in spans[first:] if start <= begin and stop <= end]
            answer = inside[0] if inside else ""
            if is_t5(tokenizer) or not decoder_only:
                assert normal(tokenizer.decode(target, skip_special_tokens=True)).strip() == normal(answer).strip()
            assert target[-1] == tokenizer.eos_token_id
            assert (len(target) == 1) == (not answer)
        covered = {place for start, end in batch.characters for place in range(start, end)}
        assert covered >= {place for place, sign in enumerate(context) if not sign.isspace()}


def normal(text: str) -> str:
    return normalizers.NFKC().normalize_str(text)


def test_bounds_cover_every_token_with_the_wanted_overlap():
    for tokens in range(40):
        for room in range(1, 12):
            for stride in range(14):
                bounds = list(window_bounds(tokens, room, stride))
                assert [place for first, last in bounds[:1] for place in range(first, last)] == list(
                    range(min(room, tokens))
                )
                for (first, last), (following, end) in itertools.pairwise(bounds):
                    assert last - following == min(stride, room // 2)
                    assert last - first == room
                    assert end > last
                assert bounds[-1][1] == tokens


def test_an_answer_must_end_before_the_window_does():
    """By hand: `the film was good` are the characters 0 to 16, so a window over it ends at 17 (exclusive)."""
    tokenizer = tiny_tokenizer("t5")
    context = "the film was good so bad"
    ends_inside = answer_spans([{"text": "good", "char_spans": [[13, 16]]}], context, "x")
    one_more = answer_spans([{"text": "good ", "char_spans": [[13, 17]]}], context, "x")
    # question : and </s> are three tokens, so that four are left for the context.
    for spans, expected in ((ends_inside, ["good", ""]), (one_more, ["", ""])):
        batch = encode_windows([("question : ", context)], [spans], tokenizer, 7, 0, 8, decoder_only=False)
        assert batch.characters == [[0, 17], [18, 24]]
        assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in batch.target_ids] == expected
    assert answer_in([(0, 18, "x"), (5, 17, "y")], 5, 17) == "y"
    assert answer_in([(4, 17, "x")], 5, 17) == ""


def test_the_first_answer_with_any_span_inside_counts_and_gives_its_own_text():
    context = "good film bad film"
    value = [
        {"text": "bad film", "char_spans": [[10, 17]]},
        {"text": "film", "char_spans": [[14, 17], [5, 8]]},
    ]
    spans = answer_spans(value, context, "x")
    batch = encode_windows([("question : ", context)], [spans], tiny_tokenizer("t5"), 5, 0, 8, decoder_only=False)
    assert batch.characters == [[0, 9], [10, 18]]
    words = [tiny_tokenizer("t5").decode(ids, skip_special_tokens=True) for ids in batch.target_ids]
    assert words == ["film", "bad film"]


def test_a_decoder_reads_the_answer_as_the_text_goes_on():
    tokenizer = trained("gpt2")
    context = TEXTS[2]
    start = context.index("the sea")
    spans = [(start, start + 7, "the sea")]
    batch = encode_windows([(QUESTION, context)], [spans], tokenizer, 100, 8, 9, decoder_only=True)
    [ids], [target] = batch.input_ids, batch.target_ids
    assert ids + target == [*tokenizer(f"{QUESTION}{context} the sea")["input_ids"], 1]
    narrow = encode_windows([(QUESTION, context)], [spans], tokenizer, 30, 8, 9, decoder_only=True)
    assert {tuple(ids) for ids in narrow.target_ids} == {tuple(target), (1,)}, "the answer, or the end token alone"


MADE = {"name": "qa", "kind": "text2text", "inputs": ["question : ", "context"], "windows": True, "target": "answers"}
QA = Task.model_validate(MADE)


def suite_of(task, spans, texts):
    targets = [[text for *_, text in found] or [""] for found in spans]
    names = [f"q{number}" for number in range(len(texts))]
    lines = list(range(1, len(texts) + 1))
    examples = Examples(texts, targets, lines, "qa.jsonl", spans=spans, ids=names)
    return TaskSuite([task], {(task.name, split): examples for split in ("train", "dev")})


TWO = [("question : ", "the film was good so bad"), ("question : ", "a book")]
ANSWERS = [[(18, 20, "so")], [(0, 1, "a")]]


def test_null_windows_are_kept_or_left_out_of_training_alone():
    tokenizer = tiny_tokenizer("t5")
    keep = suite_of(QA, ANSWERS, TWO)
    drop = suite_of(QA.model_copy(update={"null_windows": "drop"}), ANSWERS, TWO)
    for suite, train in ((keep, [0, 0, 1]), (drop, [0, 1])):
        assert suite.task_features("qa", "train", tokenizer, 7, stride=0).examples.tolist() == train
        dev = suite.task_features("qa", "dev", tokenizer, 7, stride=0)
        assert dev.examples.tolist() == [0, 0, 1]
        assert [dev.characters(item) for item in range(3)] == [[0, 17], [18, 24], [0, 6]]
    assert keep.task_features("qa", "train", tokenizer, 7, stride=2).examples.tolist() == [0, 0, 1]
    nothing = suite_of(QA.model_copy(update={"null_windows": "drop"}), [[], []], TWO)
    with pytest.raises(DataError, match=r"qa\.jsonl: no window of task 'qa' holds an answer"):
        nothing.task_features("qa", "train", tokenizer, 7)


def test_an_empty_context_is_one_window():
    tokenizer = tiny_tokenizer("t5")
    batch = encode_windows([("question : ", "")], [[]], tokenizer, 7, 2, 8, decoder_only=False)
    assert (batch.input_ids, batch.examples) == ([tokenizer("question :")["input_ids"]], [0])
    assert (batch.characters, batch.target_ids) == ([[0, 0]], [[1]])


def test_a_question_that_fills_the_item_is_named():
    texts = [TWO[0], ("question : is the film good so ? question : ", "a book")]
    suite = suite_of(QA, ANSWERS, texts)
    with pytest.raises(DataError) as refusal:
        suite.task_features("qa", "train", tiny_tokenizer("t5"), 10)
    assert str(refusal.value) == (
        "qa.jsonl:2 ('q1'): the question of task 'qa' takes 11 tokens, which leaves no room for the context within "
        "max_length 10; raise data.max_length or shorten the question"
    )
    assert len(suite.task_features("qa", "train", tiny_tokenizer("t5"), 12, stride=0)) == 3


def test_an_answer_without_tokens_is_named():
    suite = suite_of(QA, [[(5, 6, " ")]], [("question : ", "a book was")])
    with pytest.raises(DataError, match=r"qa\.jsonl:1 \('q0'\): the target of task 'qa' has no tokens"):
        suite.task_features("qa", "dev", tiny_tokenizer("t5"), 20)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": ["context"]}, "inputs: a task with windows has 2, what stands before the context and the context"),
        ({"kind": "classification"}, "windows: a classification task has none"),
        ({"choices": ["a", "b"]}, "choices: a task with windows takes its answers from the context"),
        ({"windows": False, "inputs": ["context"], "spans": "s"}, "spans: only a task with `windows: true` has it"),
        ({"windows": False, "inputs": ["c"], "null_windows": "drop"}, "null_windows: only a task with `windows: true`"),
        ({"null_windows": "skip"}, "null_windows: Input should be 'keep' or 'drop'"),
        ({"kind": "span", "windows": False, "id": "q"}, "id: a span task has none"),
    ],
)
def test_declarations_that_contradict_themselves(fields, message):
    with pytest.raises(DataError) as refusal:
        task_from_mapping({**MADE, **fields}, "task 1")
    assert message in str(refusal.value)
