"""Write `requirements/lowest.txt`: taskloom's direct dependencies at the lowest versions that pyproject.toml allows.

python -m scripts.lowest_requirements          # `make lowest` installs and tests what it writes
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "requirements" / "lowest.txt"
#: The extras that the job tests: what it takes to run their tests is small. The demo's model is pinned anyway.
EXTRAS = ("aggregation", "generation", "gguf", "graphs", "online", "sweep")
TOOLS = ("pytest", "pytest-xdist", "hypothesis")
#: torch is installed beforehand, in the version that the other jobs use: its CPU builds of older versions are not on
#: every index. Ray's tests start clusters, which takes minutes.
LEFT_OUT = ("torch", "ray")
HEAD = "# Written by `python -m scripts.lowest_requirements`: the lowest supported versions of direct dependencies.\n"


def lowest() -> str:
    """Return the requirements, a line each."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    tools = [line for line in extras["dev"] if _name(line) in TOOLS]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra]), *tools]
    pinned = [line.replace(">=", "==") for line in wanted if _name(line) not in LEFT_OUT]
    return HEAD + "".join(f"{line}\n" for line in pinned)


def _name(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0]


if __name__ == "__main__":
    FILE.write_text(lowest(), "utf-8")
