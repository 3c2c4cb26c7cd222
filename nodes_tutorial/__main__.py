"""``python -m nodes_tutorial``: the version, and what the package holds."""

import argparse

import nodes_tutorial


def main() -> None:
    """Print the version, or what the package holds."""
    parser = argparse.ArgumentParser(
        prog="python -m nodes_tutorial",
        description=nodes_tutorial.__doc__.splitlines()[0],
        epilog=f"Import what you need: nodes_tutorial.{{{', '.join(nodes_tutorial.__all__)}}}",
    )
    parser.add_argument("--version", action="version", version=nodes_tutorial.__version__)
    parser.parse_args()
    parser.print_help()


if __name__ == "__main__":
    main()
