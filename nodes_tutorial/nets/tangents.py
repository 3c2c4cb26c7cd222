"""Value and tangents of a multilayer perceptron in one pass, with a lean backward pass."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.functional import linear

Pair = tuple[Tensor, Tensor]

# slope of each activation, from its input h and its output y
SLOPES: dict[type[nn.Module], Callable[[Tensor, Tensor], Tensor]] = {
    nn.Tanh: lambda h, y: 1 - y * y,
    nn.ReLU: lambda h, y: (h > 0).to(h.dtype),
    nn.Softplus: lambda h, y: torch.sigmoid(h),
    nn.ELU: lambda h, y: (y + 1).clamp(max=1),
    nn.SiLU: lambda h, y: y + torch.sigmoid(h) * (1 - y),
    nn.Sigmoid: lambda h, y: y * (1 - y),
}

# slope s and s′/s from the output alone; the output of SiLU does not determine them
CURVES: dict[type[nn.Module], Callable[[Tensor], Pair]] = {
    nn.Tanh: lambda y: (1 - y * y, -2 * y),
    nn.ReLU: lambda y: ((y > 0).to(y.dtype), torch.zeros_like(y)),
    nn.Softplus: lambda y: (1 - (r := torch.exp(-y)), r),
    nn.ELU: lambda y: ((y + 1).clamp(max=1), (y < 0).to(y.dtype)),
    nn.Sigmoid: lambda y: (y * (1 - y), 1 - 2 * y),
}


def propagate(
    activation: nn.Module | None, affine: Sequence[Tensor], x: Tensor, v: Tensor | None
) -> Pair:
    r"""Value of a perceptron and the products of its Jacobian with directions.

    .. math:: y_l = \sigma(h_l),\quad h_{l+1} = W_{l+1}y_l + b_{l+1}; \qquad
        q_l = \sigma'(h_l)\,p_l,\quad p_{l+1} = W_{l+1}q_l

    Args:
        activation: between the layers; may be None for a single layer.
        affine: :math:`W_1, b_1, W_2, b_2, \dots`; :math:`b_1` may have a row for each input.
        x: inputs, shape (\*batch, inputs).
        v: directions, shape (k, \*batch, inputs); None means all unit vectors: then the
            tangents after the first layer are the columns of :math:`W_1`, at no cost.

    Returns:
        The value, of shape (\*batch, outputs), and the products, of shape (k, \*batch, outputs).
    """
    if not affine[3:] or type(activation) not in CURVES or _traced(affine[1], v):
        return _plain(activation, affine, x, v)
    rows = x.reshape(-1, x.shape[-1])
    directions = None if v is None else v.reshape(-1, *rows.shape)
    y, p = _Propagate.apply(activation, rows, directions, *affine)
    return y.view(*x.shape[:-1], -1), p.view(-1, *x.shape[:-1], y.shape[-1])


def _traced(bias: Tensor, v: Tensor | None) -> bool:
    """Whether a compiler or a function transform looks on, or there is a case left to autograd."""
    if torch.compiler.is_compiling() or bias.dim() > 1 or (v is not None and v.requires_grad):
        return True
    if torch.is_autocast_enabled(bias.device.type):  # layers in one dtype, slopes in another
        return True
    return torch._C._functorch.peek_interpreter_stack() is not None


def _plain(
    activation: nn.Module | None, affine: Sequence[Tensor], x: Tensor, v: Tensor | None
) -> Pair:
    """:func:`propagate` as ordinary differentiable operations."""
    weights, biases = affine[::2], affine[1::2]
    if biases[0].dim() == 1:
        y = linear(x, weights[0], biases[0])
    else:
        y = linear(x, weights[0]) + biases[0]
    if v is None:
        p = weights[0].t().contiguous().view(-1, *(1 for _ in x.shape[:-1]), len(weights[0]))
    else:
        p = linear(v, weights[0])
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        h, y = y, activation(y)
        p = SLOPES[type(activation)](h, y) * p
        y, p = linear(y, weight, bias), linear(p, weight)
    return y, p.expand(-1, *y.shape)


class _Propagate(Function):
    """:func:`propagate` on rows, which keeps y and p of each layer and computes the rest again.

    In a long solve the saved tensors do not fit into the cache. Only y and p are saved, and the
    rest is computed again: to halve the memory saves more time than the recomputation costs.
    """

    @staticmethod
    def forward(ctx, activation: nn.Module, x: Tensor, v: Tensor | None, *affine: Tensor) -> Pair:
        weights, biases, kept = affine[::2], affine[1::2], []
        k, n = (x.shape[1] if v is None else len(v)), len(x)
        h = torch.addmm(biases[0], x, weights[0].mT)
        if v is None:
            p = weights[0].mT.contiguous().unsqueeze(1)
        else:
            p = (v.reshape(k * n, -1) @ weights[0].mT).view(k, n, -1)
        for weight, bias in zip(weights[1:], biases[1:], strict=True):
            y = activation(h)
            kept += [y, p]
            q = p * SLOPES[type(activation)](h, y)
            h = torch.addmm(bias, y, weight.mT)
            p = (q.view(k * n, -1) @ weight.mT).view(k, n, -1)
        ctx.activation, ctx.layers = activation, len(weights)
        ctx.save_for_backward(x, v, *affine, *kept)
        return h, p

    @staticmethod
    def backward(ctx, gh: Tensor, gp: Tensor) -> tuple[Tensor | None, ...]:
        x, v, *saved = ctx.saved_tensors
        affine, kept = saved[: 2 * ctx.layers], saved[2 * ctx.layers :]
        if torch.is_grad_enabled():  # this gradient will be differentiated again
            return _again(ctx, x, v, affine, gh, gp)
        weights, (k, n) = affine[::2], gp.shape[:2]
        grads: list[Tensor | None] = [None] * len(affine)
        gp = gp.reshape(k * n, -1)
        for i in range(ctx.layers - 1, 0, -1):
            y, p = kept[2 * i - 2 : 2 * i]
            slope, bend = CURVES[type(ctx.activation)](y)
            q = (p * slope).view(k * n, -1)
            grads[2 * i] = torch.addmm(gh.mT @ y, gp.mT, q)
            grads[2 * i + 1] = gh.sum(0)
            gq = (gp @ weights[i]).view(k, n, -1)
            total = gq[0] * p[0]
            for j in range(1, k):
                total.addcmul_(gq[j], p[j])
            gh = (gh @ weights[i]).addcmul_(total, bend).mul_(slope)
            gp = gq.mul_(slope).view(k * n, -1)
        if v is None:
            grads[0] = torch.addmm(gp.view(k, n, -1).sum(1).mT, gh.mT, x)
        else:
            grads[0] = torch.addmm(gh.mT @ x, gp.mT, v.reshape(k * n, -1))
        grads[1] = gh.sum(0)
        gx = gh @ weights[0] if ctx.needs_input_grad[1] else None
        return None, gx, None, *grads


def _again(ctx, x: Tensor, v: Tensor | None, affine: list[Tensor], gh: Tensor, gp: Tensor):
    """The backward pass as operations that can be differentiated.

    It takes aliases: behind x itself may be earlier layers with the same weights, whose part of
    the gradient autograd adds later.
    """
    inputs = [None if part is None else part.view_as(part) for part in (x, v, *affine)]
    wanted = ctx.needs_input_grad[1:]
    chosen = [part for part, want in zip(inputs, wanted, strict=True) if want]
    y, p = _plain(ctx.activation, inputs[2:], *inputs[:2])  # type: ignore
    found = iter(torch.autograd.grad((y, p), chosen, (gh, gp), create_graph=True))  # type: ignore
    return None, *(next(found) if want else None for want in wanted)
