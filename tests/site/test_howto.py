"""The recipes run as they are printed, each alone and in an empty folder."""

import re

import pytest
import torch

from tools.project import ROOT

TEXT = (ROOT / "book" / "howto.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n.*?^```python\n(.*?)^```", TEXT, re.M | re.S))
# what the last lines of a recipe must have left behind
CHECKS = {
    "Fit a neural ODE to a CSV file": lambda made: made["loss"].item() < 0.02,
    "Fit a flow to points, with validation": lambda made: made["best"]["nll"] < 2.6,
    "Save a flow and load it again": lambda made: len(made["x"]) == 3,
    "Use a Runge–Kutta method of your own": lambda made: (
        abs(made["y"][-1].item() - torch.e**-1) < 1e-5
    ),
    "Go on with a run that was killed": lambda made: made["net"] is not None,
}


def test_every_recipe_is_checked():
    assert RECIPES.keys() == CHECKS.keys()


@pytest.mark.parametrize("title", RECIPES)
def test_recipe_runs_as_printed(title, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made = {"__name__": "__main__"}
    exec(compile(RECIPES[title], title, "exec"), made)
    assert CHECKS[title](made)
