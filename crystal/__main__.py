"""`python -m crystal` is the same as `crystal`."""

from crystal.cli import main

if __name__ == "__main__":
    main()
