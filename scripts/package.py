"""Build the source distribution and the wheel, and check what they hold: `python -m scripts.package [FOLDER]`.

The wheel is built twice, from this folder and from the source distribution: both must hold the same files.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from taskloom.tasks.archives import unpack

ROOT = Path(__file__).resolve().parents[1]
#: Files beside the code without which an installed taskloom lacks something, by where they are in the repository.
DATA = ("src/taskloom/**/*.yaml", "src/taskloom/**/*.j2", "src/taskloom/**/*.css", "src/taskloom/**/*.js")
NEVER = ("tests/", "benchmarks/", "studies/", "docs/", "scripts/", "__pycache__")


def build(folder: Path) -> tuple[Path, Path]:
    """Build both distributions into `folder`, check them, and return the source distribution and the wheel.

    Raises:
        SystemExit: something is missing, too much, or not the same.
    """
    _build("--sdist", ROOT, folder)
    _build("--wheel", ROOT, folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    with tempfile.TemporaryDirectory() as place:
        unpacked = Path(place)
        (source,) = unpack(sdist, unpacked).iterdir()
        _build("--wheel", source, unpacked)
        (again,) = unpacked.glob("*.whl")
        files, other = _files(wheel), _files(again)
    if differing := files.items() ^ other.items():
        sys.exit(f"the wheel of the source distribution is another one: {sorted({name for name, _ in differing})}")
    if missing := expected() - files.keys():
        sys.exit(f"the wheel lacks {sorted(missing)}")
    if unwanted := [name for name in files if name.startswith(NEVER) or "__pycache__" in name]:
        sys.exit(f"the wheel holds {unwanted}")
    return sdist, wheel


def expected() -> set[str]:
    """Return the files that the wheel must hold."""
    package = {file.relative_to(ROOT / "src").as_posix() for pattern in DATA for file in ROOT.glob(pattern)}
    code = {file.relative_to(ROOT / "src").as_posix() for file in ROOT.glob("src/taskloom/**/*.py")}
    recipes = {f"taskloom/{file.relative_to(ROOT).as_posix()}" for file in ROOT.glob("recipes/**/*.yaml")}
    return package | code | recipes | {"taskloom/py.typed"}


def _build(kind: str, source: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", kind, "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}:\n{done.stdout}{done.stderr}")


def _files(wheel: Path) -> dict[str, int]:
    """Return the files of a wheel with the checksums of their content."""
    with zipfile.ZipFile(wheel) as archive:
        return {entry.filename: entry.CRC for entry in archive.infolist() if not entry.filename.endswith("RECORD")}


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist")
    if place.exists() and any(place.iterdir()):
        sys.exit(f"{place}: not empty")
    for built in build(place):
        print(f"{built} ({built.stat().st_size / 1024:,.0f} KiB)")
