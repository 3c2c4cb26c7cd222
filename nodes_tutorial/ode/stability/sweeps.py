"""Three passes through a deep network with tanh layers: forward, tangent and adjoint.

The layers of a pass depend on one another, so a Python loop runs over them; everything that does
not (slopes, gradients of the weights) is done for all layers at once. Each loop body is two or
three calls that write into memory allocated once. This is what makes 1024 layers quick.
"""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["EulerSweep", "LeapfrogSweep", "VerletSweep", "propagate"]


class Record(NamedTuple):
    """What a forward pass leaves behind for the linearized ones.

    Attributes:
        h: the step size.
        operators: the weights of all layers.
        states: the states of all layers, the first and the last included.
        slopes: the slopes of tanh in all layers.
    """

    h: float
    operators: tuple[Tensor, ...]
    states: tuple[Tensor, ...]
    slopes: tuple[Tensor, ...]


def _slope(value: Tensor) -> Tensor:
    """The slope of tanh from its value, in place of it."""
    return value.square_().neg_().add_(1)


class EulerSweep:
    r"""Layers :math:`y_{l+1} = y_l + h\tanh(y_l A_j + b_j)`, rows are samples."""

    @staticmethod
    def run(h: float, y: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, Record]:
        L = len(A)
        Y, F = y.new_empty(L + 1, *y.shape), y.new_empty(L, *y.shape)
        Y[0] = y
        rows, values = Y.unbind(), F.unbind()
        for j, (A_j, b_j) in enumerate(zip(A.unbind(), b.unbind(), strict=True)):
            torch.addmm(b_j, rows[j], A_j, out=values[j])
            values[j].tanh_()
            torch.add(rows[j], values[j], alpha=h, out=rows[j + 1])
        return rows[-1].clone(), Record(h, (A, b), (Y,), (_slope(F),))

    @staticmethod
    def push(r: Record, dA: Tensor, db: Tensor) -> Tensor:
        (A, _), (Y,), (S,) = r.operators, r.states, r.slopes
        source = torch.baddbmm(db[:, None], Y[:-1], dA).unbind()
        p = torch.zeros_like(Y[0])
        for j, (A_j, s) in enumerate(zip(A.unbind(), S.unbind(), strict=True)):
            u = torch.addmm(source[j], p, A_j)
            p = torch.addcmul(p, u, s, value=r.h, out=p)
        return p

    @staticmethod
    def pull(r: Record, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (A, _), (Y,), (S,) = r.operators, r.states, r.slopes
        M = torch.empty_like(S)
        rows, slopes, At = M.unbind(), S.unbind(), A.mT.unbind()
        a = a.clone()
        for j in reversed(range(len(A))):
            torch.mul(a, slopes[j], out=rows[j])
            a.addmm_(rows[j], At[j], alpha=r.h)
        return a, r.h * (Y[:-1].mT @ M), r.h * M.sum(1)


class LeapfrogSweep:
    r"""Layers :math:`y_{l+1} = 2y_l - y_{l-1} + h^2\tanh(y_l A_j + b_j)` from rest."""

    @staticmethod
    def run(h: float, y: Tensor, A: Tensor, b: Tensor) -> tuple[Tensor, Record]:
        L = len(A)
        Y, F = y.new_empty(L + 1, *y.shape), y.new_empty(L, *y.shape)
        Y[0] = y
        rows, values = Y.unbind(), F.unbind()
        move = torch.zeros_like(y)
        for j, (A_j, b_j) in enumerate(zip(A.unbind(), b.unbind(), strict=True)):
            torch.addmm(b_j, rows[j], A_j, out=values[j])
            values[j].tanh_()
            move.add_(values[j], alpha=h**2 if j else h**2 / 2)
            torch.add(rows[j], move, out=rows[j + 1])
        return rows[-1].clone(), Record(h, (A, b), (Y,), (_slope(F),))

    @staticmethod
    def push(r: Record, dA: Tensor, db: Tensor) -> Tensor:
        (A, _), (Y,), (S,) = r.operators, r.states, r.slopes
        source = torch.baddbmm(db[:, None], Y[:-1], dA).unbind()
        p, move = torch.zeros_like(Y[0]), torch.zeros_like(Y[0])
        for j, (A_j, s) in enumerate(zip(A.unbind(), S.unbind(), strict=True)):
            u = torch.addmm(source[j], p, A_j)
            move.addcmul_(u, s, value=r.h**2 if j else r.h**2 / 2)
            p.add_(move)
        return p

    @staticmethod
    def pull(r: Record, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (A, _), (Y,), (S,) = r.operators, r.states, r.slopes
        M = torch.empty_like(S)
        rows, slopes, At = M.unbind(), S.unbind(), A.mT.unbind()
        a, move = a.clone(), torch.zeros_like(a)
        for j in reversed(range(len(A))):
            move.add_(a)
            torch.mul(move, slopes[j], out=rows[j]).mul_(r.h**2 if j else r.h**2 / 2)
            a.addmm_(rows[j], At[j])
        return a, Y[:-1].mT @ M, M.sum(1)


class VerletSweep:
    r"""Layers :math:`z \leftarrow z - h\tanh(y K + b),\; y \leftarrow y + h\tanh(z K^\top + c)`."""

    @staticmethod
    def run(h: float, y: Tensor, K: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Record]:
        L, m = len(K), K.shape[-1]
        Y, G = y.new_empty(L + 1, *y.shape), y.new_empty(L, *y.shape)
        Z, F = y.new_zeros(L + 1, len(y), m), y.new_empty(L, len(y), m)
        Y[0] = y
        ys, zs, fs, gs = Y.unbind(), Z.unbind(), F.unbind(), G.unbind()
        layers = zip(K.unbind(), K.mT.unbind(), b.unbind(), c.unbind(), strict=True)
        for j, (K_j, Kt, b_j, c_j) in enumerate(layers):
            torch.addmm(b_j, ys[j], K_j, out=fs[j])
            fs[j].tanh_()
            torch.sub(zs[j], fs[j], alpha=h, out=zs[j + 1])
            torch.addmm(c_j, zs[j + 1], Kt, out=gs[j])
            gs[j].tanh_()
            torch.add(ys[j], gs[j], alpha=h, out=ys[j + 1])
        return ys[-1].clone(), Record(h, (K, b, c), (Y, Z), (_slope(F), _slope(G)))

    @staticmethod
    def push(r: Record, dK: Tensor, db: Tensor, dc: Tensor) -> Tensor:
        K, (Y, Z), (S, R) = r.operators[0], r.states, r.slopes
        first = torch.baddbmm(db[:, None], Y[:-1], dK).unbind()
        second = torch.baddbmm(dc[:, None], Z[1:], dK.mT).unbind()
        p, q = torch.zeros_like(Y[0]), torch.zeros_like(Z[0])
        slopes = zip(K.unbind(), K.mT.unbind(), S.unbind(), R.unbind(), strict=True)
        for j, (K_j, Kt, s, t) in enumerate(slopes):
            q.addcmul_(torch.addmm(first[j], p, K_j), s, value=-r.h)
            p.addcmul_(torch.addmm(second[j], q, Kt), t, value=r.h)
        return p

    @staticmethod
    def pull(r: Record, a: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        K, (Y, Z), (S, R) = r.operators[0], r.states, r.slopes
        M, N = torch.empty_like(R), torch.empty_like(S)
        ms, ns, slopes_y, slopes_z = M.unbind(), N.unbind(), R.unbind(), S.unbind()
        Ks, Kt = K.unbind(), K.mT.unbind()
        a, e = a.clone(), torch.zeros_like(Z[0])
        for j in reversed(range(len(K))):
            torch.mul(a, slopes_y[j], out=ms[j])
            e.addmm_(ms[j], Ks[j], alpha=r.h)
            torch.mul(e, slopes_z[j], out=ns[j])
            a.addmm_(ns[j], Kt[j], alpha=-r.h)
        grad = r.h * (M.mT @ Z[1:] - Y[:-1].mT @ N)
        return a, grad, -r.h * N.sum(1), r.h * M.sum(1)


class _Propagate(torch.autograd.Function):
    """A sweep as one operation of autograd; its gradient cannot be differentiated again."""

    @staticmethod
    def forward(ctx, sweep, h, y, *operators):
        out, ctx.record = sweep.run(h, y, *operators)
        ctx.sweep = sweep
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, a):
        return None, None, *ctx.sweep.pull(ctx.record, a)


def propagate(sweep: type, h: float, y: Tensor, *operators: Tensor) -> Tensor:
    """The output of a sweep, with its gradient by the adjoint pass.

    Args:
        sweep: one of this module's classes.
        h: the step.
        y: inputs, of shape (batch, dim).
        *operators: the stacked weights of the layers, depth in front.

    Returns:
        The last states, of the shape of ``y``.

    >>> import torch
    >>> from nodes_tutorial.ode.stability.sweeps import EulerSweep, propagate
    >>> A, b = torch.zeros(3, 2, 2), torch.ones(3, 2)
    >>> propagate(EulerSweep, 1.0, torch.zeros(1, 2), A, b)
    tensor([[2.2848, 2.2848]])
    """
    return _Propagate.apply(sweep, h, y, *operators)
