"""`python -m graphlearn` is the command `graphlearn`."""

from graphlearn.cli import main

if __name__ == "__main__":
    main()
