"""Runs in the kernel before a chapter: shifts seeds and measures the gaps of assertions.

Every seed that reaches `manual_seed`, `default_rng`, `RandomState`, `seed` or `random_state=` in a
cell is shifted, and so are the global generators. A function whose name begins with `instance` is
left alone and counted. Each comparison of a top-level assertion reports its gap.
"""

import ast as _ast
import operator as _op
import os as _os
import random as _random

import numpy as _np
import torch as _torch
from IPython import get_ipython as _get_ipython

_SHIFT = int(_os.environ.get("ROBUST_SHIFT", "0"))
_JITTER = float(_os.environ.get("ROBUST_JITTER", "0"))
_ROBUST = {"gaps": {}, "findings": {}, "seeds": 0, "instances": 0}
_ORDER = {"Lt": _op.lt, "LtE": _op.le, "Gt": _op.gt, "GtE": _op.ge}
_SINKS = {"manual_seed", "manual_seed_all", "default_rng", "RandomState", "seed", "PRNGKey"}


def _robust_seed(value):
    whole = isinstance(value, int | _np.integer) and not isinstance(value, bool)
    return value + _SHIFT if whole else value


def _robust_numbers(value):
    return _np.asarray(value.detach().cpu() if isinstance(value, _torch.Tensor) else value, float)


def _robust_compare(text, label, sides, ops, values):
    """The comparison itself; on the way, the least gap between its two sides is kept."""
    result = True
    for place, op in enumerate(ops):
        a, b = values[place], values[place + 1]
        try:
            left, right = _np.broadcast_arrays(_robust_numbers(a), _robust_numbers(b))
            low, high = (left, right) if op[0] == "L" else (right, left)
            gap = (high - low).ravel()
            size = _np.maximum(_np.maximum(abs(low), abs(high)), 1e-300).ravel()
            worst = int((gap / size).argmin())
            share = float(gap[worst] / size[worst])
            if text not in _ROBUST["gaps"] or not share >= _ROBUST["gaps"][text]:
                _ROBUST["gaps"][text] = share
            if label:
                known = _ROBUST["findings"].setdefault(label, {})
                sides_here = zip((sides[place], sides[place + 1]), (left, right), strict=True)
                for side, numbers in sides_here:
                    if side is not None and not share > known.get(side, [0.0, 1e300])[1]:
                        known[side] = [float(numbers.ravel()[worst]), share]
        except (TypeError, ValueError, RuntimeError):
            pass  # not numbers
        here = _ORDER[op](a, b)
        result = here if result is True else result & here
    return result


def _robust_literal(node):
    if isinstance(node, _ast.UnaryOp):
        node = node.operand
    return isinstance(node, _ast.Constant)


def _robust_called(node):
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


class _Robust(_ast.NodeTransformer):
    depth = 0

    def visit_FunctionDef(self, node):  # an assertion in a function may be meant to fail
        if node.name.startswith("instance"):
            return node
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1
        return node

    visit_AsyncFunctionDef = visit_ClassDef = visit_FunctionDef

    def visit_Call(self, node):
        self.generic_visit(node)
        name = _robust_called(node)
        _ROBUST["instances"] += name.startswith("instance")
        if name in _SINKS and (node.args or node.keywords):
            _ROBUST["seeds"] += 1
            node.args[:1] = [self.shifted(value) for value in node.args[:1]]
        for key in node.keywords:
            if key.arg == "random_state" or (key.arg == "seed" and name in _SINKS):
                key.value = self.shifted(key.value)
        return node

    def shifted(self, value):
        return _ast.Call(_ast.Name("_robust_seed", _ast.Load()), [value], [])

    def measured(self, node, label, number):
        """Measure the comparisons of a conjunction; leave masks, `or` and `not` alone."""
        ordered = isinstance(node, _ast.Compare) and all(
            type(op).__name__ in _ORDER for op in node.ops
        )
        if ordered:
            operands = [node.left, *node.comparators]
            sides = [None if _robust_literal(x) else _ast.unparse(x)[:150] for x in operands]
            text = f"{label or f'[{number}]'}: {_ast.unparse(node)[:150]}"
            ops = [type(op).__name__ for op in node.ops]
            fixed = [_ast.Constant(text), _ast.Constant(label)]
            lists = [_ast.List([_ast.Constant(x) for x in y], _ast.Load()) for y in (sides, ops)]
            call = _ast.Name("_robust_compare", _ast.Load())
            return _ast.Call(call, [*fixed, *lists, _ast.List(operands, _ast.Load())], [])
        if isinstance(node, _ast.BoolOp) and isinstance(node.op, _ast.And):
            node.values = [self.measured(x, label, number) for x in node.values]
        elif isinstance(node, _ast.Call) and not node.args:
            if isinstance(node.func, _ast.Attribute) and _robust_called(node) == "all":
                node.func.value = self.measured(node.func.value, label, number)
        elif isinstance(node, _ast.Call) and _robust_called(node) == "all":
            inner = node.args[0]
            if isinstance(inner, _ast.GeneratorExp | _ast.ListComp):
                inner.elt = self.measured(inner.elt, label, number)
            else:
                node.args[0] = self.measured(inner, label, number)
        return node

    def visit_Assert(self, node):
        message = str(getattr(node.msg, "value", ""))
        label = message if message.startswith("obs-") else ""
        number = _get_ipython().execution_count - 1
        self.generic_visit(node)
        if not self.depth:
            node.test = self.measured(node.test, label, number)
        return node

    def visit_Module(self, node):
        return _ast.fix_missing_locations(self.generic_visit(node))


def _robust_jittered(draw):
    def drawn(*args, **kwargs):
        out = draw(*args, **kwargs)
        with _torch.no_grad():
            out.mul_(1 - _JITTER)
        return out

    return drawn


if _JITTER:
    _tensor_laws = ("normal_", "uniform_")
    _torch_laws = ("randn", "rand", "randn_like", "rand_like", "normal")
    for _where, _names in ((_torch, _torch_laws), (_torch.Tensor, _tensor_laws)):
        for _name in _names:
            setattr(_where, _name, _robust_jittered(getattr(_where, _name)))
if _SHIFT:
    _torch.manual_seed(_SHIFT)
    _np.random.seed(_SHIFT)  # noqa: NPY002
    _random.seed(_SHIFT)
if "ROBUST_THREADS" in _os.environ:
    _torch.set_num_threads = lambda number: None
_get_ipython().ast_transformers.append(_Robust())
