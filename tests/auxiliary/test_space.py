import pytest
import yaml

from taskloom.auxiliary.published import published_spaces
from taskloom.auxiliary.space import Objective, SearchSpace
from taskloom.errors import DataError, RecipeError

#: Combinations and legal objectives, as the published lists of each space give them.
COUNTS = {
    "sbasic": (6, 6), "basic": (6, 6), "vbasic": (24, 24), "vbasic1": (16, 16), "with-illegal": (24, 18),
    "bert": (1, 1), "full": (640, 352), "supervised": (2, 2), "citation.supervised": (32, 24),
    "sciie.supervised": (32, 24), "chemprot.supervised": (32, 24), "tapt": (1, 1), "semeval.all": (96, 48),
    "hyperpartisan.supervised": (32, 24), "citation.all": (64, 40), "sciie.all": (64, 40),
    "SemEval2016Task6.supervised": (32, 24), "chemprot.all": (108, 48), "gpt": (1, 1), "xlnet": (1, 1),
    "jointbasic": (6, 3), "PERSPECTRUM.supervised": (24, 18), "citation.ext": (16, 16),
}  # fmt: skip

OWN = {"data": ["Task"], "transforms": ["None", "Mask"], "representations": ["None"], "outputs": ["DENOISE"]}


def own(**changes):
    return {**OWN, **changes}


@pytest.mark.parametrize("name", COUNTS)
def test_published_spaces_have_their_counts(name):
    space = SearchSpace.named(name)
    assert (space.combinations, len(space)) == COUNTS[name]
    assert len({objective.name for objective in space}) == len(space)


def test_every_published_space_is_known():
    assert set(published_spaces()) == set(COUNTS)


def test_full_by_hand():
    space = SearchSpace.named("full")
    sentences = 4 * 4 * 1 * 6  # bidirectional alone
    tokens = 4 * 4 * 4 * 4
    assert len(space) == sentences + tokens
    assert space[0] == Objective("task", "none", "bidirectional", "denoise")
    assert all(objective.representation == "bidirectional" for objective in space if objective.output == "fastsent")
    assert [
        tuple(words[i] for words, i in zip(space.stages.values(), row, strict=True)) for row in space.stage_indices
    ] == [objective.words for objective in space]


def test_supervised_outputs_need_their_own_data_and_whole_examples():
    space = SearchSpace.named("chemprot.all")
    assert space.labelled == ("chemprot", "mnli")
    supervised = [objective for objective in space if objective.output in space.labelled]
    assert {(objective.data, objective.output) for objective in supervised} == {
        ("chemprot", "chemprot"),
        ("mnli", "mnli"),
    }
    assert {objective.representation for objective in supervised} == {"bidirectional", "random-factorized"}


def test_jointbasic_is_the_three_published_pretrainings():
    assert [objective.name for objective in SearchSpace.named("jointbasic")] == [
        "task/none/random-factorized/denoise",
        "task/none/left-to-right/denoise",
        "task/bert/bidirectional/denoise",
    ]


def test_any_task_has_its_spaces():
    supervised = SearchSpace.named("stance.supervised", ["rte", "stance"])
    assert (supervised.combinations, len(supervised), supervised.labelled) == (32, 24, ("stance",))
    everything = SearchSpace.named("stance.all", ["stance"])
    assert (everything.data, everything.combinations, len(everything)) == (("stance", "in-domain"), 64, 40)
    text = SearchSpace.named("stance.ext", ["stance"])
    assert (text.data, text.outputs, text.labelled, len(text)) == (("in-domain",), ("denoise",), (), 16)
    # A published name, unless the user has a task of that very name.
    assert SearchSpace.named("semeval.all", ["mnli", "SemEval2016_Task6"]).labelled == ("SemEval2016_Task6", "mnli")
    assert SearchSpace.named("semeval.all", ["semeval"]).labelled == ("semeval",)
    assert SearchSpace.named("Citation.Supervised", ["citation_intent"]).labelled == ("citation_intent",)


@pytest.mark.parametrize(
    ("name", "labelled", "message"),
    [
        ("fulll", None, r"no search space 'fulll'\. Did you mean 'full'\?"),
        ("stence.all", ["stance"], r"'stence\.all': there is no labelled task 'stence'\. Did you mean 'stance'\?"),
        ("chemprot.all", ["chemprot"], r"'chemprot\.all' needs the labelled task 'mnli', and the tasks are chemprot"),
    ],
)
def test_names_that_mean_nothing(name, labelled, message):
    with pytest.raises(RecipeError, match=message):
        SearchSpace.named(name, labelled)


def test_a_space_of_ones_own_in_published_spelling(tmp_path):
    values = {
        "data": ["Task", "CITATION_INTENT"],
        "transforms": ["None", "Noisy-Embed", "BERT"],
        "representations": [None, "Random-Factorized"],
        "outputs": ["DENOISE", "TFIDF", "NSP", "QT", "citation_intent"],
        "illegal": [["None", "None"], ["BERT", "TFIDF"]],
    }
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(values))
    space = SearchSpace.load(path, labelled=["citation_intent"])
    assert space.data == ("task", "citation_intent")
    assert space.transforms == ("none", "noisy-embedding", "bert")
    assert space.representations == ("bidirectional", "random-factorized")
    assert space.outputs == ("denoise", "tfidf", "next-sentence", "quick-thoughts", "citation_intent")
    # Of 2·3·2·5: with the transform none only random-factorized counts, where sentence outputs are out.
    none = 2 * 2 + 1  # the two token outputs of both data; citation_intent of its own
    noisy = 2 * (2 * 2 + 2) + 2
    bert = 2 * (2 * 1 + 2) + 2
    assert (space.combinations, len(space)) == (60, none + noisy + bert)
    assert list(SearchSpace.read(str(path), ["citation_intent"])) == list(SearchSpace.read(values, ["citation_intent"]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (own(data=["Tsak"]), r"the search space: data: unknown value 'Tsak'\. Did you mean 'task'\?"),
        (own(outputs=["rte"]), r"outputs: unknown value 'rte'"),
        (own(transforms=["Mask", "mask"]), r"transforms: 'mask' is there twice \(the second time as 'mask'\)"),
        (own(transform=["Mask"]), r"unknown key 'transform'\. Did you mean 'transforms'\?"),
        ({"data": ["task"]}, r"transforms is required: a list of none, replace"),
        (own(data="task"), r"data: expected a list, found 'task'; put it in brackets"),
        (own(illegal=[["mask"]]), r"illegal: pair 1: expected two values"),
        (own(illegal=[["none", "denoise"], ["mask", "bert"]]), r"pair 2: no stage of the space has the value 'bert'"),
        (own(illegal=[["denoise", "mask"]]), r"pair 1: expected values of two stages in the order data, transform"),
        (
            own(representations=["Left-To-Right"], outputs=["NSP"]),
            r"none of its 2 combinations is legal: 2 because the output next-sentence is about whole sentences",
        ),
        (
            own(illegal=[["None", "None"], ["Mask", "Task"]]),
            r"pair 2: expected values of two stages in the order",
        ),
        (
            own(illegal=[["None", "None"], ["Mask", "DENOISE"]]),
            r"is legal: 1 because the space forbids none with bidirectional; 1 because the space forbids mask with",
        ),
    ],
)
def test_what_a_space_of_ones_own_gets_wrong(values, message):
    with pytest.raises(RecipeError, match=message):
        SearchSpace.from_mapping(values)


def test_messages_name_the_file(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump(own(outputs=["denoize"])))
    with pytest.raises(RecipeError, match=r"space\.yaml': outputs: unknown value 'denoize'\. Did you mean 'denoise'"):
        SearchSpace.load(path)
    path.write_text("data: [task\n")
    with pytest.raises(RecipeError, match=r"space\.yaml:2: not valid YAML"):
        SearchSpace.load(path)
    path.write_text("- task\n")
    with pytest.raises(RecipeError, match=r"a search space is a mapping with the keys data, transforms"):
        SearchSpace.load(path)
    with pytest.raises(DataError, match=r"no file 'other\.yaml'"):
        SearchSpace.load(tmp_path / "other.yaml")


def test_a_task_with_the_name_of_a_word_is_refused_where_it_would_be_mistaken():
    with pytest.raises(RecipeError, match="'task' is a labelled task and also a word"):
        SearchSpace.from_mapping(OWN, ["task"])
    assert len(SearchSpace.named("tapt", ["task"])) == 1


@pytest.mark.parametrize("name", ["full", "citation.all"])
def test_names_are_read_back(name):
    assert all(Objective.from_name(objective.name) == objective for objective in SearchSpace.named(name))
    with_slashes = Objective("a/mask/bidirectional/b", "mask", "bidirectional", "fastsent")
    assert Objective.from_name(with_slashes.name) == with_slashes
    with pytest.raises(RecipeError, match="'task/masks/bidirectional/denoise' is not an objective"):
        Objective.from_name("task/masks/bidirectional/denoise")


def test_find():
    space = SearchSpace.named("with-illegal")
    assert space.find("task/mask/left-to-right/tf") == Objective("task", "mask", "left-to-right", "tf")
    with pytest.raises(RecipeError, match=r"'task/mask/left-to-right/next-sentence' is illegal: the output"):
        space.find("task/mask/left-to-right/next-sentence")
    with pytest.raises(RecipeError, match=r"has no objective .* Did you mean 'task/mask/left-to-right/tf'\?"):
        space.find("task/mask/left-to-right/tfidf")
    with pytest.raises(RecipeError, match=r"has no objective .* Its stages are data: task; transform: none, replace"):
        space.find("in-domain/noisy-embedding/random-factorized/fastsent")


def test_restrict_drops_values_that_nothing_uses():
    full = SearchSpace.named("full")
    space = full.restrict(objective for objective in full if objective.output in ("tf", "fastsent"))
    assert space.outputs == ("tf", "fastsent")
    assert (space.data, space.transforms) == (full.data, full.transforms)
    assert list(space) == [objective for objective in full if objective.output in ("tf", "fastsent")]
    three = full.restrict([full[5], full[100], full[7]])
    assert list(three) == [full[5], full[7], full[100]]
    assert three.stage_indices.max(0).tolist() == [len(words) - 1 for words in three.stages.values()]
    with pytest.raises(RecipeError, match=r"'full': none of its 352 objectives is left"):
        full.restrict([Objective("rte", "none", "bidirectional", "rte")])
