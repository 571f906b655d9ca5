"""`python -m taskloom`: the command line, for whoever has no scripts on the path."""

from taskloom.cli import main

if __name__ == "__main__":
    main()
