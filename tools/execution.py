"""Execute a notebook to its end, and tell which cells failed and what they got."""

from __future__ import annotations

import ast
import inspect
import os
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.utils import ensure_async
from nbclient import NotebookClient
from nbclient.exceptions import CellTimeoutError, DeadKernelError

CELL_SECONDS = 300  # of one cell, where budgets hold; what a page costs is measured apart
PATIENCE = 1200  # elsewhere: a slow machine is not an error


def budgets_hold() -> bool:
    """Whether limits on time and memory are errors: in CI, and not on a reader's machine."""
    return bool(os.environ.get("CI"))


def cell_timeout() -> int:
    return CELL_SECONDS if budgets_hold() else PATIENCE


def run(path: Path, timeout: int) -> tuple[nbformat.NotebookNode, list[dict[str, Any]]]:
    """The notebook with its outputs, and what failed in it.

    Cells after a failed one run too. No tag of a cell excuses it. A failure has the number of the
    code cell, from 1, the `check` that failed, the `error`, and in `got` what was compared.
    """
    notebook = nbformat.read(path, as_version=4)
    failures: list[dict[str, Any]] = []

    async def failed(cell: Any, cell_index: int, execute_reply: dict[str, Any]) -> None:
        content = execute_reply["content"]
        error = f"{content['ename']}: {content['evalue']}".split("\n")[0]
        number = sum(c.cell_type == "code" for c in notebook.cells[: cell_index + 1])
        failures.append({"cell": number, "error": error, **await _asked(client)})

    client = NotebookClient(notebook, timeout=timeout, allow_errors=True, on_cell_error=failed)
    try:
        client.execute(cwd=path.parent)
    except (CellTimeoutError, DeadKernelError) as error:
        number = client.code_cells_executed
        told = f"{type(error).__name__}: {error}".split("\n")[0]
        failures.append({"cell": number, "error": told, "check": "", "got": ""})
    return notebook, failures


async def _asked(client: NotebookClient) -> dict[str, str]:
    """Ask the kernel what the failed check was, and what it got."""
    code = f"import sys as _sys\n{inspect.getsource(told)}"
    reply = await ensure_async(
        client.kc.execute(
            code,
            silent=True,
            user_expressions={"told": "told(_sys.last_traceback)"},
            reply=True,
            timeout=30,
        )
    )
    found = reply["content"].get("user_expressions", {}).get("told", {})
    text = found.get("data", {}).get("text/plain", "('', '')")
    check, got = ast.literal_eval(text)
    return {"check": check, "got": got}


def told(traceback):  # runs in the kernel: it imports what it needs
    """The statement that raised, and the values of its operands, evaluated once more."""
    import ast
    import linecache

    frames = []
    while traceback:
        frames.append(traceback)
        traceback = traceback.tb_next
    for frame in reversed(frames):
        lines = linecache.getlines(frame.tb_frame.f_code.co_filename)
        try:
            nodes = list(ast.walk(ast.parse("".join(lines))))
        except SyntaxError:
            continue
        inside = [
            node
            for node in nodes
            if isinstance(node, ast.stmt) and node.lineno <= frame.tb_lineno <= node.end_lineno
        ]
        if not inside or "ipykernel" not in frame.tb_frame.f_code.co_filename:
            continue
        statement = min(inside, key=lambda node: node.end_lineno - node.lineno)
        if not isinstance(statement, ast.Assert):
            return lines[frame.tb_lineno - 1].strip()[:200], ""
        test = statement.test
        parts = (
            [test.left, *test.comparators]
            if isinstance(test, ast.Compare)
            else [node for node in ast.walk(test) if isinstance(node, ast.Name)]
        )
        values = {}
        for part in parts:
            if isinstance(part, ast.Constant):
                continue
            try:
                code = compile(ast.Expression(part), "<check>", "eval")
                value = eval(code, frame.tb_frame.f_globals, frame.tb_frame.f_locals)
                value = value.item() if hasattr(value, "item") else value
                text = f"{value:.6g}" if isinstance(value, float) else repr(value)
                values[ast.unparse(part)] = text[:100]
            except Exception:
                continue
        got = ", ".join(f"{name} = {value}" for name, value in values.items() if "<" not in value)
        return f"assert {ast.unparse(test)}", got
    return "", ""
