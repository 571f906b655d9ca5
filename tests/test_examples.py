import subprocess
import sys
from pathlib import Path

from examples.digits_affinity import ASKED, group

REPOSITORY = Path(__file__).resolve().parents[1]


def test_digits_annotators_are_grouped_by_the_question_they_were_asked(tmp_path):
    affinity, groups = group(tmp_path / "gradients", seed=1)
    assert affinity.shape == (8, 8)
    assert sorted(sorted(ASKED[task] for task in members) for members in groups) == [[0] * 4, [1] * 4]


def test_the_digits_example_runs_as_its_docstring_says():
    run = subprocess.run(
        [sys.executable, "-m", "examples.digits_affinity"], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-2:] == [
        "group: ann, dan, finn, gina (asked question 0, 0, 0, 0)",
        "group: ben, cleo, eva, hugo (asked question 1, 1, 1, 1)",
    ]
