"""Stands in for `taskloom train` in tests of sweeps: a run folder in no time, or whatever can go wrong.

The "score" is a function of the settings; `description` says what happens: crash, crash-once, oom, nan, slow.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import yaml


def main() -> None:
    words = sys.argv[1 : sys.argv.index("--resume")]
    overrides = [word for word in words if "=" in word]
    verb = " ".join(words[: -len(overrides) - 1])
    fields = {name: json.loads(value) for name, _, value in (each.partition("=") for each in overrides)}
    folder = Path(fields["output"])
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "starts").open("a") as file:
        file.write(f"{verb}\n")
    recipe = words[len(verb.split())]
    (folder / "recipe").write_text(recipe)
    base = yaml.safe_load(Path(recipe).read_text())
    what = fields.get("description", base.get("description", ""))
    if what == "crash" or (what == "crash-once" and len((folder / "starts").read_text().splitlines()) == 1):
        sys.exit("RuntimeError: something broke")
    if what == "oom":
        os.kill(os.getpid(), signal.SIGKILL)
    score = fields.get("training.learning_rate", 1.0) * 10 + fields["seed"] / 100
    steps = max(fields.get("training.max_steps", base.get("training", {}).get("max_steps", 1)), 1)
    with (folder / "metrics.jsonl").open("w") as log:
        for step in range(1, steps + 1):
            log.write(json.dumps({"step": step, "dev/mean": score * step / steps}) + "\n")
            log.flush()
            if what == "slow":
                time.sleep(0.3)
    (folder / "scores.json").write_text(json.dumps({"mean": float("nan") if what == "nan" else score, "nll": {"x": 1}}))
    (folder / "finished.json").write_text("{}")


if __name__ == "__main__":
    main()
