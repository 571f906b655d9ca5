"""How tasks share parameters: taskloom's own PEFT methods, used through `peft.get_peft_model`.

Importing a configuration, such as `CAMTLConfig`, makes its method known to PEFT, so that `PeftModel.from_pretrained`
finds it. The package itself imports neither PEFT nor torch: the names below are resolved on first use.
"""

from typing import TYPE_CHECKING

from taskloom.lazy import lazy_names

_HOMES = {
    "CAMTLConfig": "taskloom.adapters.ca_mtl.config",
    "HyperdecoderConfig": "taskloom.adapters.hyperdecoder.config",
}

__all__ = ["CAMTLConfig", "HyperdecoderConfig"]

if TYPE_CHECKING:
    from taskloom.adapters.ca_mtl.config import CAMTLConfig as CAMTLConfig
    from taskloom.adapters.hyperdecoder.config import HyperdecoderConfig as HyperdecoderConfig

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
