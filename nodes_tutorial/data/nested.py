"""Two small tasks that no flow solves in its own dimension: the flip and the nested spheres."""

import torch
from jaxtyping import Float
from torch import Tensor


def flip(
    n: int,
    generator: torch.Generator | None = None,
    *,
    noise: float = 0.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Float[Tensor, "n 1"], Float[Tensor, "n 1"]]:
    r"""Points at :math:`\pm1`, alternating, and the opposite sign as the target.

    Args:
        n: number of points.
        generator: source of the noise; None means PyTorch's global one.
        noise: standard deviation of what is added to the points.
        dtype: dtype of both results.
        device: device of the results; by default where ``generator`` lives.

    Returns:
        Points and targets.

    Raises:
        ValueError: ``n`` below 1 or negative ``noise``.

    References: Dupont, Doucet and Teh (2019), section 4.1.

    >>> from nodes_tutorial.data.nested import flip
    >>> flip(3)[1].flatten()
    tensor([ 1., -1.,  1.])
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    if not noise >= 0:
        raise ValueError(f"noise must be at least 0, got {noise}")
    source = device if generator is None else generator.device
    sign = 2.0 * (torch.arange(n, device=source, dtype=dtype) % 2).unsqueeze(1) - 1
    x = sign + noise * torch.randn(n, 1, generator=generator, dtype=dtype, device=source)
    return x.to(device or source), -sign.to(device or source)


def nested_spheres(
    inner: int,
    outer: int,
    dim: int = 2,
    generator: torch.Generator | None = None,
    *,
    radii: tuple[float, float, float] = (0.5, 1.0, 1.5),
    uniform: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> tuple[Float[Tensor, "n dim"], Float[Tensor, "n 1"]]:
    r"""A ball of points with target -1 inside a shell of points with target 1.

    With :math:`u` uniform on [0, 1] the radius of the experiment that made the task known is
    :math:`r_1u^{1/d}` inside and :math:`r_2+(r_3-r_2)\,u^{1/d}` outside. The first is uniform in
    the ball; the second is not uniform in the shell. ``uniform=True`` takes
    :math:`(r_2^d+(r_3^d-r_2^d)\,u)^{1/d}` instead.

    Args:
        inner: number of points with :math:`\|x\|\le r_1`.
        outer: number of points with :math:`r_2\le\|x\|\le r_3`.
        dim: the dimension d of the space.
        generator: source of the numbers; None means PyTorch's global one.
        radii: the three radii, :math:`r_1<r_2\le r_3`.
        uniform: draw from the uniform law on the shell, not from the published one.
        dtype: dtype of both results.
        device: device of the results; by default where ``generator`` lives.

    Returns:
        Points, the inner ones first, and targets.

    Raises:
        ValueError: a number of points or ``dim`` below 1, or ``radii`` out of order.

    Chapter: thm-augmented-spheres

    References: Dupont, Doucet and Teh (2019), section 4.2 and its released code.

    >>> import torch
    >>> from nodes_tutorial.data.nested import nested_spheres
    >>> x, y = nested_spheres(2, 3, generator=torch.Generator().manual_seed(0))
    >>> x.shape, y.flatten()
    (torch.Size([5, 2]), tensor([-1., -1.,  1.,  1.,  1.]))
    """
    for name, value in {"inner": inner, "outer": outer, "dim": dim}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    r1, r2, r3 = radii
    if not 0 < r1 < r2 <= r3:
        raise ValueError(f"radii must satisfy 0 < r1 < r2 <= r3, got {radii}")
    source = device if generator is None else generator.device
    kind = {"generator": generator, "dtype": dtype, "device": source}
    direction = torch.nn.functional.normalize(torch.randn(inner + outer, dim, **kind), dim=1)
    u = torch.rand(inner + outer, 1, **kind)
    root = u ** (1 / dim)
    even = (r2**dim + (r3**dim - r2**dim) * u) ** (1 / dim)
    shell = even if uniform else r2 + (r3 - r2) * root
    is_inner = torch.arange(inner + outer, device=source).unsqueeze(1) < inner
    x = torch.where(is_inner, r1 * root, shell) * direction
    y = 1 - 2 * is_inner.to(dtype)
    return x.to(device or source), y.to(device or source)
