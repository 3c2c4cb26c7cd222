"""The examples of the docstrings run as the reference prints them: each alone, with its imports."""

import doctest
import importlib
import pkgutil

import pytest

import nodes_tutorial

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def examples() -> dict[str, doctest.DocTest]:
    """By name, every docstring of the package that has an example, in an empty namespace."""
    names = [
        info.name for info in pkgutil.walk_packages(nodes_tutorial.__path__, "nodes_tutorial.")
    ]
    found = {}
    for name in names:
        if name.endswith("__main__"):
            continue
        module = importlib.import_module(name)
        for test in doctest.DocTestFinder().find(module, name, globs={}):
            if test.examples:
                found[test.name] = test
    return found


EXAMPLES = examples()


def test_there_are_examples():
    assert len(EXAMPLES) > 150


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs_as_printed(name):
    report = []
    test = EXAMPLES[name]
    test.globs = {"__name__": "__main__"}
    doctest.DocTestRunner(optionflags=FLAGS).run(test, out=report.append, clear_globs=False)
    assert report == [], "".join(report)
