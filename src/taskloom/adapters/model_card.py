"""What the model card of an adapter says about loading it: PEFT alone does not know our methods."""

from pathlib import Path

from taskloom.storage import write_atomically

__all__ = ["add_to_card"]

_SECTION = """
## Loading this adapter

This adapter uses {method}, which [taskloom](https://pypi.org/project/taskloom/) adds to PEFT. Import it first:

```python
from taskloom.adapters import {config}  # makes {method} known to PEFT
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "this folder or repository")
{call}
```
"""


def add_to_card(folder: str | Path, method: str, config: str, call: str) -> None:
    """Add to the model card in `folder` how to load an adapter.

    Args:
        folder: where PEFT has written the adapter.
        method: the method's name.
        config: the name of its configuration class in `taskloom.adapters`.
        call: a line of Python that calls the loaded model.
    """
    card = Path(folder) / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if f"import {config}" not in text:
        write_atomically(card, f"{text.rstrip()}\n{_SECTION.format(method=method, config=config, call=call)}")
