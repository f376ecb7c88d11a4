"""``python -m devinterp``: the command line, where its script is not on the path."""

from devinterp.cli import main

if __name__ == "__main__":
    main()
