"""What all sections draw from: the runs, who is compared with whom, and how names are shown."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

from taskloom.report.html.reading.find import Found, Pipeline
from taskloom.report.html.reading.run import Run
from taskloom.report.html.reading.settings import Setting, settings
from taskloom.report.html.section import Limits

__all__ = ["Labels", "View"]

#: Longer names are shortened, and listed whole at the end of the page.
LONGEST = 48


class Labels:
    """Names as the page shows them: each apart from the text around it, whichever way it is written."""

    def __init__(self) -> None:
        self.shortened: dict[str, str] = {}
        self._taken: set[str] = set()

    def short(self, text: str) -> str:
        """Return a name of bearable length; different names stay different."""
        text = str(text)
        if len(text) <= LONGEST:
            return text
        if text not in self.shortened:
            short = f"{text[: LONGEST - 1]}…"
            if short in self._taken:
                short = f"{text[: LONGEST - 6]}… #{len(self.shortened) + 1}"
            self._taken.add(short)
            self.shortened[text] = short
        return self.shortened[text]

    def __call__(self, text: str) -> Markup:
        """Return a name as HTML; a shortened one leads to the whole."""
        short = escape(self.short(text))
        if text not in self.shortened:
            return Markup("<bdi>{}</bdi>").format(short)
        place = list(self.shortened).index(text) + 1
        return Markup('<a class="whole" href="#name-{}"><bdi>{}</bdi></a>').format(place, short)


@dataclass
class View:
    """What is shown.

    Attributes:
        found: the runs and pipelines.
        limits: how much of them.
        title: the page's.
        labels: how names are shown.
        settings: runs with dev scores, the seeds of one recipe together; colours go by these.
    """

    found: Found
    limits: Limits = field(default_factory=Limits)
    title: str = ""
    labels: Labels = field(default_factory=Labels)
    settings: list[Setting] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = settings(run for run in self.runs if run.kind != "groups" and (run.dev or run.history.dev))

    @property
    def runs(self) -> Sequence[Run]:
        return self.found.runs

    @property
    def pipelines(self) -> Sequence[Pipeline]:
        return self.found.pipelines

    def place(self, run: Run) -> int | None:
        """Return the place of a run's setting; a grouped run's is that of its groups."""
        for place, setting in enumerate(self.settings):
            for each in setting.runs:
                if run is each or (run.kind == "groups" and run.path == each.path and each.way == "groups"):
                    return place
        return None

    def colour(self, run: Run) -> int:
        """Return the place of a run's colour and mark: that of its setting, if it has one."""
        if (place := self.place(run)) is not None:
            return place
        others = [each for each in self.runs if all(each is not one for s in self.settings for one in s.runs)]
        return len(self.settings) + next((place for place, each in enumerate(others) if each is run), 0)
