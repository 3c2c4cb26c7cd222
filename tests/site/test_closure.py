"""The modules that a chapter's cells reach, and the digest of what they do."""

from pathlib import Path

import pytest

from tools import closure

FILES = {
    "__init__.py": "",
    "ground/__init__.py": """from nodes_tutorial.ground.tool import helper as renamed
from nodes_tutorial.ground import other
HERE = 1
""",
    "ground/tool.py": "from nodes_tutorial.base import one\n\ndef helper():\n    return one\n",
    "ground/other.py": "",
    "base.py": "one, two = 1, 2\n",
    "lazy.py": "def late():\n    from nodes_tutorial import base\n    return base\n",
    "unused.py": "",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / "nodes_tutorial" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def names(root: Path, code: str) -> set[str]:
    found = closure.closure([code], root)
    return {path.relative_to(root / "nodes_tutorial").as_posix() for path in found}


@pytest.mark.parametrize(
    ("code", "reached"),
    [
        ("import torch", set()),
        ("from nodes_tutorial.base import two", {"base.py"}),
        ("from nodes_tutorial.ground import renamed", {"ground/tool.py", "base.py"}),
        ("from nodes_tutorial.ground.tool import helper", {"ground/tool.py", "base.py"}),
        ("from nodes_tutorial.ground import other", {"ground/other.py"}),
        (
            "from nodes_tutorial.ground import HERE",
            {"ground/__init__.py", "ground/tool.py", "ground/other.py", "base.py"},
        ),
        ("%pip install x\nfrom nodes_tutorial import lazy", {"lazy.py", "base.py"}),
        ("def f():\n    import nodes_tutorial.base", {"base.py"}),
    ],
)
def test_names_are_followed_to_their_modules(root, code, reached):
    assert names(root, code) == reached


def test_a_module_that_is_not_there_is_an_error(root):
    with pytest.raises(ModuleNotFoundError, match="missing"):
        closure.closure(["import nodes_tutorial.missing"], root)


def test_digest_sees_code_and_nothing_else(root):
    path = root / "nodes_tutorial" / "base.py"

    def digest(text: str) -> str:
        path.write_text(text)
        return closure.digest([path], root)

    code = "return '# no comment'"
    plain = digest(f"def f(x):\n    {code}\n")
    text = f'"""About."""\n\n\ndef f(x):  # why\n    """Two\n    lines."""\n\n    {code}\n'
    assert digest(text) == plain
    assert digest("def f(x):\n    return '# a comment'\n") != plain
    assert digest(f"def f(y):\n    {code}\n") != plain
