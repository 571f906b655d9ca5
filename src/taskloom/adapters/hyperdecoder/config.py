"""The PEFT configuration of Hyperdecoders."""

from dataclasses import dataclass, field
from typing import ClassVar

from peft import PeftConfig

from taskloom.adapters.hyperdecoder.settings import HyperdecoderSettings
from taskloom.adapters.model_card import add_to_card
from taskloom.adapters.register import AdapterType, register_adapter

__all__ = ["HYPERDECODER", "HyperdecoderConfig"]

HYPERDECODER = AdapterType("HYPERDECODER")


@dataclass
class HyperdecoderConfig(HyperdecoderSettings, PeftConfig):
    """Hyperdecoders (Ivison and Peters, 2022) for `peft.get_peft_model`: each input generates its own adapters.

    Base models: T5, T5 v1.1, Flan-T5, mT5 and BART, or decoder-only ones: Llama, Mistral, Qwen2, Qwen3, SmolLM,
    GPT-2, GPT-NeoX. The wrapped model takes two further arguments, in `forward` and in `generate`:

    - `task`: LongTensor[batch], each example's task number; needed by per_task and task_generated.
    - `prompt_length` (decoder-only models, `forward` alone): leading columns that are the prompt, padding included; an
      int or LongTensor[batch]. By default what comes before the first label, or else the whole input.

    The fields are those of `HyperdecoderSettings` and of `PeftConfig`. A field out of its range raises UserError (a
    ValueError).

    Example:
        >>> config = HyperdecoderConfig(encoder="shared", decoder="instance_generated", adapter_dim=64, bottleneck=128)
        >>> model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained("google/t5-v1_1-base"), config)
        >>> model(input_ids=input_ids, attention_mask=attention_mask, labels=labels).loss.backward()
        >>> model.generate(input_ids=input_ids, attention_mask=attention_mask)
    """

    modules_to_save: list[str] | None = field(
        default=None, metadata={"help": "Further modules that are trained and saved whole."}
    )
    #: Which modules are wrapped follows from the model and the fields, not from a list of names as in other methods.
    target_modules: ClassVar[None] = None

    def __post_init__(self) -> None:
        PeftConfig.__post_init__(self)
        HyperdecoderSettings.__post_init__(self)
        self.peft_type = HYPERDECODER

    def save_pretrained(self, save_directory: str, **kwargs: object) -> None:
        """Save as PEFT does; the model card in the same folder says how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        call = "model.generate(input_ids=input_ids, attention_mask=attention_mask)"
        if self.num_tasks is not None:
            call = f"{call[:-1]}, task=task)  # task: LongTensor[batch], 0 to {self.num_tasks - 1}"
        add_to_card(save_directory, "Hyperdecoders", "HyperdecoderConfig", call)


# The tuner needs the class above, and the class needs its tuner to be known to PEFT: hence here, at the end.
from taskloom.adapters.hyperdecoder.model import HyperdecoderModel  # noqa: E402

register_adapter(HYPERDECODER, HyperdecoderConfig, HyperdecoderModel)
