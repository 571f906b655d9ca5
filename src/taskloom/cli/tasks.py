"""`taskloom tasks`: the tasks that come with taskloom."""

from pathlib import Path

from taskloom.cli.output import JsonOption, print_json, print_table

__all__ = ["tasks"]


def tasks(as_json: JsonOption = False) -> None:
    """List the preset tasks and suites of tasks, one line each."""
    from taskloom.tasks.instructions import list_suites
    from taskloom.tasks.presets import list_presets, resolve_tasks

    presets = [*list_presets(), *list_suites()]
    # The tasks of a suite are alike: its first one tells the kind and the metrics.
    firsts = [resolve_tasks([name], Path(), has_data_dir=False)[0][0] for name, _ in presets]
    if as_json:
        found = [
            {"id": name, "kind": task.kind, "metrics": task.metrics, "description": description}
            for (name, description), task in zip(presets, firsts, strict=True)
        ]
        print_json({"tasks": found})
    else:
        print_table(
            ("id", "kind", "metrics", "description"),
            [
                (name, task.kind, ", ".join(task.metrics), description)
                for (name, description), task in zip(presets, firsts, strict=True)
            ],
        )
