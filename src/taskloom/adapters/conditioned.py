"""What the tuners of all methods that depend on the task, or on the example, have in common."""

import re
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import torch
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from taskloom.adapters.wrapping import ModuleWrapper, plain_name

__all__ = ["ConditionedTuner"]


class ConditionedTuner(BaseTuner):
    """A base model that takes the further argument `task`, LongTensor[batch], in `forward` and in `generate`.

    A method says where it wraps the model, what it does when a forward pass or a generation begins, and which
    parameters of the base model it trains and saves beside its own.
    """

    #: The base model takes the further argument `task`.
    conditions_on_task = True
    #: The base model takes the further argument `prompt_length`.
    conditions_on_prompt = False
    #: The method's name in messages.
    title: ClassVar[str]
    target_module_mapping: ClassVar[dict[str, list[str]]] = {}

    # --- What a method provides ----------------------------------------------------------------------------------

    def begin(self, model: nn.Module, task: Tensor | None, kwargs: dict[str, Any]) -> None:
        """Begin a forward pass of the base model; `kwargs`, its arguments, may be changed."""
        raise NotImplementedError

    def generation(self, task: Tensor | None, args: tuple, kwargs: dict[str, Any]) -> AbstractContextManager[None]:
        """Return the context of one call of `generate` with these arguments."""
        raise NotImplementedError

    def num_tasks(self) -> int | None:
        """Return how many tasks the adapter in use knows; None if it does not ask for any."""
        raise NotImplementedError

    @classmethod
    def trained_base(cls, model: nn.Module, config: Any) -> dict[str, nn.Parameter]:
        """Return the parameters of the base model that are trained beside the adapter, by their names in `model`."""
        raise NotImplementedError

    # --- Injection -----------------------------------------------------------------------------------------------

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict) -> Any:
        return peft_config

    def _check_new_adapter_config(self, config: Any) -> None:
        super()._check_new_adapter_config(config)
        trains_base = [name for name, other in self.peft_config.items() if self.trained_base(self.model, other)]
        if len(self.peft_config) > 1 and trains_base:
            raise ValueError(
                f"The adapter '{trains_base[0]}' trains parameters of the base model, so it cannot share it with "
                "others: each would change the base under the other. Give each such adapter a base model of its own, "
                "or freeze the whole base model."
            )

    def _post_injection_hook(self, model: nn.Module, config: Any, adapter_name: str) -> None:
        self._begin_hook = model.register_forward_pre_hook(self._begin, with_kwargs=True)
        if hasattr(model, "generate"):
            model.generate = _ConditionedGenerate(model, self)  # type: ignore[assignment]

    # --- The task ids --------------------------------------------------------------------------------------------

    def _begin(self, model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """Take `task` out of the base model's arguments: all ways of calling a PeftModel lead through here."""
        self.begin(model, self.checked_task(kwargs.pop("task", None)), kwargs)
        return args, kwargs

    def checked_task(self, task: Tensor | None) -> Tensor | None:
        """Return `task` as LongTensor[batch]. Raises ValueError for another shape or type, or an unknown task."""
        num_tasks = self.num_tasks()
        if task is None:
            return torch.zeros(1, dtype=torch.long) if num_tasks == 1 else None
        if not isinstance(task, Tensor) or task.dim() != 1 or task.dtype.is_floating_point or task.dtype == torch.bool:
            found = f"{task.dtype} of shape {list(task.shape)}" if isinstance(task, Tensor) else type(task).__name__
            raise ValueError(f"`task` must be a LongTensor[batch] with each example's task number, found {found}.")
        # On an accelerator this would wait for the device; there, an unknown task fails in the embedding's kernel.
        traced = torch.compiler.is_compiling() or is_functorch_wrapped_tensor(task)
        if num_tasks is not None and task.device.type == "cpu" and len(task) and not traced:
            lowest, highest = int(task.min()), int(task.max())
            if lowest < 0 or highest >= num_tasks:
                raise ValueError(
                    f"`task` has numbers from {lowest} to {highest}, but the adapter has {num_tasks} tasks, "
                    "numbered from 0."
                )
        return task.long()

    # --- Training and saving -------------------------------------------------------------------------------------

    def _mark_only_adapters_as_trainable(self, model: nn.Module) -> None:
        super()._mark_only_adapters_as_trainable(model)
        for name in self.active_adapters:
            config = self.peft_config[name]
            if not config.inference_mode:
                for parameter in self.trained_base(model, config).values():
                    parameter.requires_grad = True

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: Any,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """Add the trained part of the base model to what PEFT saves."""
        saved = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        return saved | {name: state_dict[name] for name in cls.trained_base(model, config)}

    @classmethod
    def _remove_adapter_name_from_key(cls, key: str, adapter_name: str) -> str:
        """Name what is saved by the base model's own module names, whichever of them are wrapped at the moment."""
        key = plain_name(super()._remove_adapter_name_from_key(key, adapter_name))
        # PEFT expects the adapter's name last but one; our parts have parts of their own.
        return re.sub(rf"(\.{cls.prefix}\w+)\.{re.escape(adapter_name)}\.", r"\1.", key)

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: Any, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        remapped = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        name_in_model = {plain_name(name): name for name in cls.trained_base(model, config)}
        return {name_in_model.get(name, name): tensor for name, tensor in remapped.items()}

    # --- Switching and removing ----------------------------------------------------------------------------------

    def set_adapter(self, adapter_name: str | list[str], inference_mode: bool = False) -> None:
        if not isinstance(adapter_name, str) and len(adapter_name) > 1:
            raise ValueError(f"{self.title} uses one adapter at a time, found {len(adapter_name)} in `adapter_name`.")
        super().set_adapter(adapter_name, inference_mode=inference_mode)

    def _check_merge_allowed(self) -> None:
        raise ValueError(
            f"A {self.title} adapter cannot be merged into the base model: what it does depends on each example. Use "
            "`unload()` to get the base model back, or save the adapter with `save_pretrained`."
        )

    def _unload_and_optionally_merge(self, merge: bool = True, *args: Any, **kwargs: Any) -> Any:
        if merge:
            self._check_merge_allowed()
        self._begin_hook.remove()
        vars(self.model).pop("generate", None)
        # PEFT unwraps the outermost wrappers only; take off those within wrapped layers first.
        wrappers = [(name, part) for name, part in self.model.named_modules() if isinstance(part, ModuleWrapper)]
        for name, wrapper in reversed(wrappers):
            parent_name, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent_name), child, wrapper.base_layer)
        return super()._unload_and_optionally_merge(merge, *args, **kwargs)


class _ConditionedGenerate:
    """A model's `generate` with the further argument `task`; an object, so that copies of the model get their own."""

    def __init__(self, model: nn.Module, tuner: ConditionedTuner) -> None:
        self.model = model
        self.tuner = tuner

    def __call__(self, *args: Any, task: Tensor | None = None, **kwargs: Any) -> Any:
        with self.tuner.generation(self.tuner.checked_task(task), args, kwargs):
            return type(self.model).generate(self.model, *args, **kwargs)  # type: ignore[attr-defined]
