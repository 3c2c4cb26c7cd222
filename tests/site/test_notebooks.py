"""Reader notebooks: what their chapters make, plain, without outputs, numbered as the site."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys

import nbformat
import pytest

from tools import myst
from tools.blocks import Converter
from tools.macros import expand
from tools.notebooks import make, problems, written
from tools.numbering import chapter_labels, labels
from tools.project import ROOT, chapters

CHAPTERS = chapters()


def ids(chapter):
    return chapter.slug


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_notebook_is_what_the_chapter_makes(chapter):
    assert problems(chapter) == []
    assert chapter.notebook.read_text(encoding="utf-8") == written(make(chapter))


def test_committed_notebooks_are_those_of_the_working_tree(git):
    """`make book` writes them: one that was not committed would go unnoticed otherwise.

    An author with uncommitted chapters has uncommitted notebooks; then there is nothing to compare.
    """
    if not git("status", "--porcelain", "book", "nodes_tutorial", "_toc.yml", "_config.yml"):
        assert git("status", "--porcelain", "notebooks") == ""


def test_no_notebook_is_left_over():
    found = set((ROOT / "notebooks").rglob("*.ipynb"))
    assert found == {chapter.notebook for chapter in CHAPTERS}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_notebook_is_plain_and_has_no_outputs(chapter):
    notebook = nbformat.read(chapter.notebook, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            continue
        prose = re.sub(r"```.*?```|`[^`]*`", "", cell.source, flags=re.S)
        assert not re.search(r"\{[\w:-]+\}`|^[`:]{3,}\{|^\([\w-]+\)=", cell.source, re.M)
        assert not re.search(r"\\(norm|tr|diag|dd|R|E)(?![A-Za-z])", prose)


@pytest.mark.parametrize("chapter", CHAPTERS, ids=ids)
def test_code_cells_are_the_chapters(chapter):
    notebook = nbformat.read(chapter.notebook, as_version=4)
    theirs = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    cells = myst.cells(chapter.source)
    assert theirs == [cell.source for cell in cells if cell.cell_type == "code"]


def test_numbers_are_those_of_the_site(html):
    """Counted from the text here; by Sphinx there."""
    path = html.parent / ".doctrees" / "environment.pickle"
    with path.open("rb") as file:
        environment = pickle.load(file)
    compared = 0
    for chapter in CHAPTERS:
        theirs = {
            anchor: ".".join(map(str, number))
            for kinds in environment.toc_fignumbers[chapter.docname].values()
            for anchor, number in kinds.items()
        }
        sections = environment.toc_secnumbers[chapter.docname]
        theirs |= {a.removeprefix("#"): ".".join(map(str, n)) for a, n in sections.items()}
        for label, entry in chapter_labels(chapter).items():
            if entry.kind == "Section":
                _, anchor, _ = environment.domaindata["std"]["labels"][label]
                assert entry.number == theirs[anchor], label
            else:
                assert entry.number == theirs[entry.anchor], label
            compared += 1
    assert compared == len(labels())


def test_links_of_the_notebooks_lead_to_anchors_of_the_site(html):
    pages: dict[str, str] = {}
    from tools.project import address

    pattern = re.compile(re.escape(address().site) + r"/([\w/.-]+\.html)(?:#([\w.-]+))?")
    for chapter in CHAPTERS:
        for page, anchor in pattern.findall(chapter.notebook.read_text(encoding="utf-8")):
            if page not in pages:
                pages[page] = (html / page).read_text(encoding="utf-8")
            assert not anchor or f'id="{anchor}"' in pages[page], f"{page}#{anchor}"


MARKUP_WITHOUT_A_PLAIN_FORM = [
    "```{tab-set}\n```",
    "{glue}`x`",
    "<div>raw</div>",
    "{eq}`eq-that-is-nowhere`",
    "{doc}`no-such-page`",
    "{cite:t}`nobody1900nothing`",
    "term\n: definition",
    "- ```{note}\n  text\n  ```",
    "[](#somewhere)",
    "```{solution-end}\n```",
    "```{literalinclude} ../../nodes_tutorial/no_such.py\n```",
]


@pytest.mark.parametrize("text", MARKUP_WITHOUT_A_PLAIN_FORM)
def test_unknown_markup_is_an_error(text):
    with pytest.raises((myst.MarkupError, KeyError)):
        Converter(CHAPTERS[0]).text(text)


def test_code_is_not_taken_for_markup():
    text = "As `{eq}` says, `$x$` is code.\n\n```text\n{cite:t}`x`\n```"
    assert Converter(CHAPTERS[0]).text(text) == text


def test_display_formula_in_a_box_stays_on_one_line():
    """A viewer cuts formulas out before it takes quotes apart."""
    text = "```{note}\nHere\n\n$$\na\n= b\n$$\n```"
    assert Converter(CHAPTERS[0]).text(text) == "> **Note.** Here\n>\n> $$a = b$$"


@pytest.mark.parametrize(
    "tex, plain",
    [
        (r"\norm{x}", r"\left\lVert x \right\rVert"),
        (r"\norm{\norm{a} b}", r"\left\lVert \left\lVert a \right\rVert b \right\rVert"),
        (r"\dd x \R^d \Re", r"\mathrm{d} x \mathbb{R}^d \Re"),
        (r"\tr A", r"\operatorname{tr} A"),
    ],
)
def test_macros_are_written_out(tex, plain):
    assert expand(tex) == plain


def test_address_is_in_one_place():
    command = [sys.executable, "-m", "tools.address", "--check"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def copy(tmp_path, git):
    """The tracked files that the tools read, to be changed."""
    for name in git("ls-files", "book", "tools", "nodes_tutorial", "notebooks", "*.*").split("\n"):
        if (ROOT / name).is_file() and "/" + name.split("/")[0] != "/tests":
            target = tmp_path / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())

    def run(*arguments: str) -> str:
        command = [sys.executable, *arguments]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    return tmp_path, run


def test_fork_changes_one_line(copy):
    folder, run = copy
    project = folder / "pyproject.toml"
    old, new = "https://github.com/nodes-tutorial/nodes-tutorial", "https://github.com/me/my-fork"
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace(f'Repository = "{old}"', f'Repository = "{new}"'))
    run("-m", "tools.address")
    run("-m", "tools.notebooks")
    left = [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix in (".md", ".yml", ".ipynb", ".toml") and old in path.read_text()
    ]
    assert left == []
    run("-m", "tools.address", "--check")
    run("-m", "tools.notebooks", "--check")


KEYS = """
import json
from tools import store
from tools.project import chapters
print(json.dumps({chapter.slug: store.key(chapter) for chapter in chapters()}))
"""


def test_results_are_keyed_on_code_package_and_pins(copy):
    folder, run = copy
    chapter = CHAPTERS[0]
    source = folder / chapter.source.relative_to(ROOT)

    def keys() -> dict[str, str]:
        return json.loads(run("-c", KEYS))

    first = keys()
    with source.open("a", encoding="utf-8") as file:
        file.write("\nMore prose.\n")
    assert keys() == first
    with source.open("a", encoding="utf-8") as file:
        file.write("\n```{code-cell} ipython3\n1 + 1\n```\n")
    edited = keys()
    assert {slug for slug in first if edited[slug] != first[slug]} == {chapter.slug}
    with (folder / "constraints.txt").open("a", encoding="utf-8") as file:
        file.write("other==1\n")
    assert all(key != edited[slug] for slug, key in keys().items())
    before = keys()
    target = folder / "nodes_tutorial/ode/known_unknowns/goku.py"
    text = target.read_text()
    target.write_text(text + "\n# a comment\n")
    assert keys() == before
    target.write_text(text + "\nMORE = 1\n")
    after = keys()
    users = {"ode/known_unknowns", "ode/misspecified"}
    assert {slug for slug in before if after[slug] != before[slug]} == users
