"""The verbs of `taskloom online`, from a recipe to a run folder each: tune-qa, meta-train, adapt, and show."""
