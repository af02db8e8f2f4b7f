"""The `crystal` command, and `python -m crystal`."""

import sys


def main() -> None:
    """Run a command; without the packages of the extra `crystal`, say what to install."""
    try:
        from crystal.cli import main as run

        run()
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {"crystal", "maskrcnn_jax"}:
            raise
        print(f'error: {error.name} is not installed: pip install "maskrcnn-jax[crystal]"', file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
