"""`taskloom online adapt` on a recipe's stream, in the processes that the environment tells of."""

import sys

from taskloom.online.stages.adapt import adapt_stage
from taskloom.recipe import load_recipe

if __name__ == "__main__":
    adapt_stage(load_recipe(sys.argv[1], sys.argv[2:]), quiet=True)
