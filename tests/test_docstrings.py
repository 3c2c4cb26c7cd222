"""Every exported name tells a user what goes in and what comes out.

The rules: each parameter of a function or a constructor is an entry of ``Args:`` or
``Attributes:`` (or has a docstring of its own under the field of a named tuple); an entry has two
words or more; a function that returns something has ``Returns:``, or its summary begins with
"Return"; the first line of ``Returns:`` has no colon, because napoleon takes what stands before it
for a type; what raises errors has ``Raises:``; a summary is one line with a full stop; the example
comes last. Methods, and names that no package exports, need not list their arguments; what they
list is held to the same rules.
"""

import ast
import importlib
import inspect
import pkgutil
import re
import textwrap
from itertools import pairwise
from types import ModuleType

import pytest

import nodes_tutorial

PACKAGES = [
    f"nodes_tutorial.{name}"
    for name in (
        *("ode", "ode.augmented", "ode.irregular", "ode.known_unknowns", "ode.latent"),
        *("ode.misspecified", "ode.multilevel", "ode.odenet", "ode.residual", "ode.solvers"),
        *("ode.stability", "ode.stiffness"),
        *("bayes", "flows", "generalization", "implicit", "invariance", "meta"),
        *("nets", "linalg", "data", "training", "plots"),
    )
]
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Chapter|References|Examples?):")
ENTRY = re.compile(r" {4}((?:\**\w+, )*\**\w+)(?: \([^)]*\))?:(.*)")
CODE = re.compile(r":\w+:`[^`]*`|``[^`]*``")
ROLE = re.compile(r":\w+:`[^`]*`")
WORD = re.compile(r"[^\W\d_]{2,}")


def exported() -> dict[str, object]:
    """By full name, the functions and classes of the packages and of the modules they export."""
    found, modules = {}, [importlib.import_module(name) for name in PACKAGES]
    for module in modules:
        for name in getattr(module, "__all__", vars(module)):
            thing = getattr(module, name)
            if name[0] == "_" or not _is_exported(module, thing):
                continue
            if isinstance(thing, ModuleType):
                modules += [thing] if thing not in modules else []
            elif inspect.isclass(thing) or inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def _is_exported(module: ModuleType, thing) -> bool:
    return "__all__" in vars(module) or getattr(thing, "__module__", "") == module.__name__


def sections(doc: str) -> dict[str, list[str]]:
    """The lines of each section; those before the first under the name ''."""
    parts, current = {"": []}, ""
    for line in doc.splitlines():
        if header := SECTION.match(line):
            current = header[1]
            line = line[header.end() :]
        parts.setdefault(current, []).append(line)
    return parts


def entries(lines: list[str]) -> dict[str, str]:
    """By name, the descriptions of a list of arguments."""
    found, names = {}, []
    for line in lines:
        if entry := ENTRY.fullmatch(line):
            names = [name.strip("* ") for name in entry[1].split(",")]
            found |= dict.fromkeys(names, entry[2])
        else:
            for name in names:
                found[name] += line
    return found


def fields(cls: type) -> dict[str, str]:
    """Docstrings under the fields of a class."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0].body
    found = {}
    for field, note in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(note, ast.Expr):
            found[field.target.id] = ast.literal_eval(note.value)
    return found


def parameters(thing) -> list[str]:
    """Of a function, or of the constructor that a class of ours has."""
    if inspect.isclass(thing):
        ours = getattr(thing.__init__, "__module__", "").startswith("nodes_tutorial")
        ours = ours or hasattr(thing, "_fields")
        if not ours or getattr(thing, "_is_protocol", False) or issubclass(thing, BaseException):
            return []
    names = inspect.signature(thing).parameters
    return [name for name in names if name != "self" and name[0] != "_"]


def _returns(thing) -> bool:
    if inspect.isclass(thing):
        return False
    return inspect.signature(thing).return_annotation not in (None, "None", inspect._empty)


def _raises(thing) -> bool:
    """Whether the code of a function, or of a class's constructor, raises an error itself."""
    code = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(thing)))).body
    if inspect.isclass(thing):
        makers = ("__init__", "__post_init__")
        code = [part for part in code[0].body if getattr(part, "name", "") in makers]
    raised = [n.exc for part in code for n in ast.walk(part) if isinstance(n, ast.Raise)]
    return any(it is not None and ast.unparse(it) != "NotImplementedError" for it in raised)


def own_doc(thing) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def faults(thing, complete: bool = True) -> list[str]:
    """What is missing from a docstring; with ``complete``, no list of arguments is a fault too."""
    doc = own_doc(thing)
    parts = sections(doc)
    summary = doc.split("\n\n")[0]
    found = []
    if not re.fullmatch(r"[^\n]+\.", summary):
        found.append(f"the summary is no line with a full stop: {summary!r}")
    if "Example" in parts or "Examples" in parts:
        found.append("an example has no header")
    if re.search(r"^Chapter: .*\n(?: +.*\n)*References:", doc, re.MULTILINE):
        found.append("a blank line belongs between Chapter and References")
    if re.search(r"^>>>(?s:.*)^(Chapter|References|Args|Returns|Raises):", doc, re.MULTILINE):
        found.append("the example comes last")
    told = entries(parts.get("Args", [])) | entries(parts.get("Attributes", []))
    if inspect.isclass(thing):
        told |= fields(thing)
    if complete or "Args" in parts:
        found += [f"{name} is not described" for name in parameters(thing) if name not in told]
    found += [
        f"{name} is described by {text!r}"
        for name, text in told.items()
        if len(WORD.findall(ROLE.sub("", text))) < 2
    ]
    told = {"Returns", "Yields"} & set(parts) or summary.startswith("Return")
    if complete and not told and _returns(thing):
        found.append("nothing tells what is returned")
    if _raises(thing) and "Raises" not in parts and not summary.startswith("Raise"):
        found.append("nothing tells what is raised")
    for section in ("Returns", "Yields"):
        first = next((line for line in parts.get(section, []) if line.strip()), "")
        if ":" in CODE.sub("", first):
            found.append(f"a colon tears the first line of {section}: {first.strip()!r}")
    return found


def methods(cls: type) -> dict[str, object]:
    """The public methods and properties with a docstring that a class defines."""
    found = {}
    for name, thing in vars(cls).items():
        thing = getattr(thing, "fget", None) or getattr(thing, "__func__", None) or thing
        if name[0] != "_" and inspect.isfunction(thing) and thing.__doc__:
            found[name] = thing
    return found


def internals(module: ModuleType) -> dict[str, object]:
    """The public functions and classes of a module that no package exports."""
    return {
        name: thing
        for name, thing in vars(module).items()
        if name[0] != "_" and (inspect.isclass(thing) or inspect.isfunction(thing))
        if thing.__module__ == module.__name__ and thing not in EXPORTED.values() and thing.__doc__
    }


EXPORTED = exported()
MODULES = [
    info.name
    for info in pkgutil.walk_packages(nodes_tutorial.__path__, "nodes_tutorial.")
    if not info.name.endswith("__main__") and ".experiments" not in info.name
]


def test_names_are_found():
    assert len(EXPORTED) > 150
    assert "nodes_tutorial.ode.odeint.odeint" in EXPORTED
    assert "nodes_tutorial.training.fit" in EXPORTED


@pytest.mark.parametrize("name", EXPORTED)
def test_docstring_serves_a_user(name):
    assert faults(EXPORTED[name]) == []


@pytest.mark.parametrize("name", [name for name, it in EXPORTED.items() if inspect.isclass(it)])
def test_docstrings_of_methods(name):
    found = {each: faults(it, complete=False) for each, it in methods(EXPORTED[name]).items()}
    assert {each: wrong for each, wrong in found.items() if wrong} == {}


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_of_internals(name):
    found = {}
    for each, thing in internals(importlib.import_module(name)).items():
        found[each] = faults(thing, complete=False)
        for method, it in methods(thing).items() if inspect.isclass(thing) else ():
            found[f"{each}.{method}"] = faults(it, complete=False)
    assert {each: wrong for each, wrong in found.items() if wrong} == {}


def good(x: int) -> int:
    """Return the next number.

    Args:
        x: the number before it.

    Returns:
        The number, one more than x.
    """


@pytest.mark.parametrize(
    "old, new, word",
    [
        ("number.\n", "number\n", "full stop"),
        ("the number before it.", "x.", "described by"),
        ("    x: ", "    y: ", "not described"),
        ("number, one", "number: one", "colon"),
        ("Args:", "Example:\n    >>> 1\n\nArgs:", "header"),
        ("Args:", "Chapter: thm-a\nReferences: A (2000).\n\nArgs:", "blank line"),
        ("Return the", "The", "returned"),
        ("Args:", ">>> 1\n1\n\nArgs:", "last"),
    ],
)
def test_a_fault_is_found(old, new, word):
    def bad(x: int) -> int: ...

    bad.__doc__ = own_doc(good)
    assert faults(bad) == []
    text = own_doc(good).replace(old, new)
    bad.__doc__ = text.split("\n\nReturns:")[0] if word == "returned" else text
    assert any(word in fault for fault in faults(bad))


def test_an_untold_error_is_found():
    def bad(x: int) -> int:
        raise ValueError

    bad.__doc__ = own_doc(good)
    assert faults(bad) == ["nothing tells what is raised"]
    bad.__doc__ += "\n\nRaises:\n    ValueError: in every case."
    assert faults(bad) == []
