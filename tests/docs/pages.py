"""The pages of the documentation and the code blocks in them.

Comments that stand directly before a block say what the tests do with it; a shell block has `run` or `not run`, unless
it only installs:

    <!-- file: stance.yaml -->          the block is a file of this name; so is one whose first line is `# stance.yaml`
    <!-- run: training.max_steps=2 -->  its commands are run, with these settings behind those that take any
    <!-- not run: needs 8 GPUs -->      it cannot be run here, and why; its taskloom commands are checked all the same
"""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

__all__ = ["HOUSE", "PAGES", "Block", "blocks", "read"]

HOUSE = Path(__file__).resolve().parents[2]
PAGES = ["README.md", *sorted(path.relative_to(HOUSE).as_posix() for path in HOUSE.glob("docs/**/*.md"))]

_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.MULTILINE | re.DOTALL
)
_MARKS = re.compile(r"(?:<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
_MARK = re.compile(r"<!--\s*(file|run|not run):\s*(.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A code block: where it stands (its first line of code), its language, and the marks before it."""

    page: str
    line: int
    language: str
    code: str
    marks: dict[str, str]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def not_run(self) -> str | None:
        return self.marks.get("not run")

    @property
    def file(self) -> str | None:
        """The name of the file that the block is."""
        named = re.match(r"# ([\w./-]+\.(?:yaml|json|jsonl|csv|txt|py))$", self.code.partition("\n")[0])
        return self.marks.get("file") or (named[1] if named else None)

    @property
    def is_shell(self) -> bool:
        """Whether it is of shell commands: said so, or without a language and nothing else than our commands."""
        ours = ("taskloom ", "torchrun ", "accelerate ")
        return self.language == "sh" or (not self.language and all(line.startswith(ours) for line in self.commands))

    @cached_property
    def commands(self) -> list[str]:
        """The lines of a shell block; what is continued by a backslash is one line."""
        lines = self.code.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def read(page: str) -> str:
    return (HOUSE / page).read_text("utf-8")


def blocks(page: str) -> list[Block]:
    """Return the code blocks of a page in order."""
    text = read(page)
    found = []
    for match in _FENCE.finditer(text):
        before = _MARKS.search(text[: match.start()])
        marks = dict(_MARK.findall(before[0])) if before else {}
        code = re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start("code")) + 1
        found.append(Block(page, line, match["language"], code, marks))
    return found
