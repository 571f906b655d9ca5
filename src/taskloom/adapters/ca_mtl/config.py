"""The PEFT configuration of CA-MTL."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from peft import PeftConfig

from taskloom.adapters.ca_mtl.settings import CAMTLSettings, preset_fields
from taskloom.adapters.model_card import add_to_card
from taskloom.adapters.register import AdapterType, register_adapter

__all__ = ["CA_MTL", "CAMTLConfig"]

CA_MTL = AdapterType("CA_MTL")


@dataclass
class CAMTLConfig(CAMTLSettings, PeftConfig):
    """CA-MTL (Pilault et al., 2021) for `peft.get_peft_model`: one encoder whose parts are modulated by the task.

    The wrapped model takes a further argument, `task`: a LongTensor[batch] with each example's task number.

    The fields are those of `CAMTLSettings` and of `PeftConfig`. A field out of its range raises UserError (a
    ValueError), layer numbers once the model is known.

    Example:
        >>> config = CAMTLConfig(num_tasks=8, max_length=128, norm_layers="6-10", bottleneck_layers=[11])
        >>> model = get_peft_model(AutoModel.from_pretrained("bert-base-cased"), config)
        >>> model(input_ids=input_ids, attention_mask=attention_mask, task=torch.tensor([0, 3]))
    """

    modules_to_save: list[str] | None = field(
        default=None,
        metadata={"help": "Further modules, such as a classifier, that are trained and saved whole."},
    )
    #: Which modules are wrapped follows from the encoder and the fields, not from a list of names as in other methods.
    target_modules: ClassVar[None] = None

    def __post_init__(self) -> None:
        PeftConfig.__post_init__(self)
        CAMTLSettings.__post_init__(self)
        self.peft_type = CA_MTL

    @classmethod
    def preset(cls, name: str, **fields: Any) -> Self:
        """Return a published configuration, "ca-mtl-base" or "ca-mtl-large", with `fields` on top."""
        return cls(**{**preset_fields(name), **fields})

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        """Save as PEFT does; the model card in the same folder says how to load the adapter."""
        super().save_pretrained(save_directory, **kwargs)
        call = (
            "model(input_ids=input_ids, attention_mask=attention_mask, task=task)  "
            f"# task: LongTensor[batch], 0 to {self.num_tasks - 1}"
        )
        add_to_card(save_directory, "CA-MTL", "CAMTLConfig", call)


# The tuner needs the class above, and the class needs its tuner to be known to PEFT: hence here, at the end.
from taskloom.adapters.ca_mtl.model import CAMTLModel  # noqa: E402

register_adapter(CA_MTL, CAMTLConfig, CAMTLModel)
