"""Keeping a language model current: which tokens of a new document matter (CaMeLS, arXiv 2305.15076).

A weighter gives each token of a document a weight; an update of the model on the weighted loss makes it answer
questions about the document. `meta_train` trains a weighter through such updates, `adapt` applies them to a stream.
The names are loaded on first use.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "Adaptation": "taskloom.online.adaptation",
    "Document": "taskloom.online.questions",
    "LearnedWeighter": "taskloom.online.weighters.learned",
    "Question": "taskloom.online.questions",
    "QuestionSet": "taskloom.online.questions",
    "SalientSpanWeighter": "taskloom.online.weighters.salient",
    "TfIdfWeighter": "taskloom.online.weighters.tfidf",
    "UniformWeighter": "taskloom.online.weighters.uniform",
    "adapt": "taskloom.online.adaptation",
    "meta_train": "taskloom.online.meta_training",
    "read_questions": "taskloom.online.formats",
    "read_stream": "taskloom.online.stream",
    "score_questions": "taskloom.online.qa_scores",
    "tune_qa": "taskloom.online.qa_tuning",
}

__all__ = [
    "Adaptation",
    "Document",
    "LearnedWeighter",
    "Question",
    "QuestionSet",
    "SalientSpanWeighter",
    "TfIdfWeighter",
    "UniformWeighter",
    "adapt",
    "meta_train",
    "read_questions",
    "read_stream",
    "score_questions",
    "tune_qa",
]

if TYPE_CHECKING:
    from taskloom.online.adaptation import Adaptation as Adaptation
    from taskloom.online.adaptation import adapt as adapt
    from taskloom.online.formats import read_questions as read_questions
    from taskloom.online.meta_training import meta_train as meta_train
    from taskloom.online.qa_scores import score_questions as score_questions
    from taskloom.online.qa_tuning import tune_qa as tune_qa
    from taskloom.online.questions import Document as Document
    from taskloom.online.questions import Question as Question
    from taskloom.online.questions import QuestionSet as QuestionSet
    from taskloom.online.stream import read_stream as read_stream
    from taskloom.online.weighters.learned import LearnedWeighter as LearnedWeighter
    from taskloom.online.weighters.salient import SalientSpanWeighter as SalientSpanWeighter
    from taskloom.online.weighters.tfidf import TfIdfWeighter as TfIdfWeighter
    from taskloom.online.weighters.uniform import UniformWeighter as UniformWeighter

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
