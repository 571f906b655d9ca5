"""Counts what makes the processor wait for the device: every read of a tensor's values into Python."""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operators of which each call waits for a GPU. `.item()`, `bool(tensor)`, `float(tensor)`, `if tensor` and
#: `torch.equal` come down to the first two; the others have outputs whose size depends on values.
WAITING = {
    "_local_scalar_dense", "equal", "nonzero", "is_nonzero", "masked_select", "unique_dim", "_unique2",
    "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip


class CountReads(TorchDispatchMode):
    """Within it, `reads` counts what would wait for a GPU, by the function that asks, of taskloom or another package.

    `tolist`, `cpu` and `numpy` of a tensor on the processor call no operator: they are counted by `patched`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        indices = args[1] if name in ("index", "index_put", "index_put_") else ()
        by_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
        if name in WAITING or by_mask or (name == "repeat_interleave" and len(args) == 1):
            self.note(name)
        return func(*args, **(kwargs or {}))

    def note(self, what: str) -> None:
        codes, frame = [], sys._getframe(2)
        while frame is not None:
            codes.append(frame.f_code)
            frame = frame.f_back
        # Optimizers keep their numbers of steps on the processor, and read those.
        if any("torch/optim/" in code.co_filename for code in codes):
            return
        own = next(code for code in codes if not any(x in code.co_filename for x in ("/torch/", "/efficiency/")))
        path = Path(own.co_filename)
        parts = path.parts
        package = parts[parts.index("site-packages") + 1] if "site-packages" in parts else parts[-2]
        self.reads[f"{'taskloom' if 'src/taskloom' in str(path) else package}/{path.name} {own.co_name}: {what}"] += 1


def count_reads(run: Any, monkeypatch: Any) -> Counter[str]:
    """Return what `run()` reads back, by place."""
    counter = CountReads()
    with monkeypatch.context() as patch:
        for name in ("tolist", "numpy"):
            original = getattr(torch.Tensor, name)

            def counted(
                tensor: torch.Tensor, *args: Any, _name: str = name, _original: Any = original, **kw: Any
            ) -> Any:
                counter.note(_name)
                return _original(tensor, *args, **kw)

            patch.setattr(torch.Tensor, name, counted)
        with counter:
            run()
    return counter.reads
