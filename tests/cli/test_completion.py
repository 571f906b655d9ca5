"""Shell completion, by the protocol of the installed scripts: words in environment variables, offers on stdout."""

import os
import shutil
import subprocess
import sys

import pytest

from taskloom.recipe import packaged_recipes, recipe_fields
from tests.cli.command import run

MAIN = "import sys; from taskloom.cli import main; main()"


@pytest.fixture
def offers(tmp_path, monkeypatch, capsys):
    """Return what is offered behind the words of a command line, the last of which is being typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("_TASKLOOM_COMPLETE", "complete_bash")
    monkeypatch.setattr("sys.argv", ["taskloom"])

    def offers(*words: str) -> list[str]:
        monkeypatch.setenv("COMP_WORDS", " ".join(("taskloom", *words)))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        return run(capsys).out.split()

    return offers


def test_verbs_and_options(offers):
    assert offers("tr") == ["train"]
    assert {"train", "evaluate", "predict", "online", "sweep", "doctor"} <= set(offers(""))
    assert set(offers("online", "")) == {"tune-qa", "meta-train", "adapt", "show"}
    assert offers("train", "--res") == ["--resume"]
    assert "--documents" in offers("online", "adapt", "--d")
    assert offers("group", "--method", "s") == ["sdp", "spectral"]


def test_packaged_recipes_and_files(offers, tmp_path):
    assert offers("train", "ca-mtl/") == [name for name in packaged_recipes() if name.startswith("ca-mtl/")]
    (tmp_path / "mine.yaml").write_text("x")
    (tmp_path / "mine.csv").write_text("x")
    for run_folder in ("one", "two"):
        (tmp_path / "runs" / run_folder).mkdir(parents=True)
        (tmp_path / "runs" / run_folder / "recipe.yaml").write_text("x")
    assert offers("train", "mi") == ["mine.yaml"]
    assert offers("train", "ru") == ["runs/one", "runs/two"]  # a lone folder is opened
    assert offers("evaluate", "runs/o") == ["runs/one"]
    (tmp_path / "runs" / "three").mkdir()
    (tmp_path / "runs" / "three" / "pipeline.json").write_text("{}")
    assert offers("report", "runs/t") == ["runs/three", "runs/two"]
    assert offers("evaluate", "m") == ["mrqa"]  # a recipe is not a run
    assert set(offers("recipes", "")) == set(packaged_recipes())
    assert offers("predict", "nowhere/") == []


def test_fields_come_with_their_values(offers):
    assert offers("train", "r.yaml", "training.epoch") == ["training.epochs=", "training.epochs=3"]
    names = {offer.partition("=")[0] for offer in offers("train", "r.yaml", "")}
    assert names == {field.name for field in recipe_fields()}
    assert set(offers("sweep", "r.yaml", "training.learning_rate=1e-5", "seed")) == {"seed=", "seed=0"}


@pytest.mark.parametrize("words", [("training.precision", "="), ("training.precision", "=", "b")])
def test_bash_breaks_words_at_the_sign(offers, words):
    expected = {"float32", "bf16", "fp16"} if words[-1] == "=" else {"bf16"}
    assert set(offers("train", "r.yaml", *words)) == expected


@pytest.mark.parametrize(
    ("shell", "expected"),
    [
        ("zsh", '"training.precision=bf16"'),
        ("fish", "training.precision=bf16\t"),
        ("powershell", "training.precision=bf16:::"),
    ],
)
def test_other_shells(monkeypatch, capsys, shell, expected):
    monkeypatch.setenv("_TASKLOOM_COMPLETE", f"complete_{shell}")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "taskloom train r.yaml training.precision=b")
    monkeypatch.setenv("_TYPER_COMPLETE_WORD_TO_COMPLETE", "training.precision=b")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setattr("sys.argv", ["taskloom"])
    assert expected in run(capsys).out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_the_script_of_each_shell(monkeypatch, capsys, shell):
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    script = subprocess.run(
        [sys.executable, "-c", MAIN, "--show-completion", shell],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    ).stdout
    assert "_TASKLOOM_COMPLETE" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_itself_completes_after_the_installation(tmp_path):
    """Install into a home of its own, start bash with it, and press TAB by calling what TAB calls."""
    home, commands = tmp_path / "home", tmp_path / "commands"
    home.mkdir()
    commands.mkdir()
    command = commands / "taskloom"
    command.write_text(f"#!{sys.executable}\n{MAIN}\n")
    command.chmod(0o755)
    environment = os.environ | {"HOME": str(home), "PATH": f"{commands}:{os.environ['PATH']}"}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    subprocess.run([command, "--install-completion", "bash"], env=environment, check=True, capture_output=True)
    script = """
. "$HOME/.bashrc"
COMP_WORDS=(taskloom train ca-mtl/gl); COMP_CWORD=2
_taskloom_completion taskloom
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(["bash", "--norc", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ca-mtl/glue-minilm"]


def test_completion_imports_no_torch():
    code = f"""
import os, sys
os.environ |= {{"_TASKLOOM_COMPLETE": "complete_bash", "COMP_WORDS": "taskloom train r.yaml se", "COMP_CWORD": "3"}}
sys.argv = ["taskloom"]
try:
    {MAIN}
except SystemExit:
    print("MODULES", *sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "seed=" in out
    assert not {"torch", "transformers", "datasets", "peft"} & set(out.rpartition("MODULES")[2].split())
