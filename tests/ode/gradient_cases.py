"""One field and one loss, for numpy and torch, with their gradients.

The oracle is the complex step: every field and loss here is holomorphic, so `Im L(x + i e) / e` is
the derivative to rounding. It shares no code with the package and none with autograd.
"""

import numpy as np
import torch
from scipy.integrate import solve_ivp

EPS = 1e-30  # a complex step has no cancellation: it can be this small
MODES = ("direct", "checkpoint", "adjoint")
T0, T1 = 0.2, 1.7
Z0 = np.array([0.6, -0.4])
THETA = np.array([1.1, 0.7, -0.5])


# --- one field, one loss, for numpy (complex) and torch alike ----------------------------------


def field(t, z, theta, xp=np):
    """A field that depends on time, and whose Jacobian is neither symmetric nor normal."""
    return xp.stack(
        [
            theta[0] * xp.sin(z[1]) - 0.3 * z[0] + theta[2] * t,
            -theta[1] * z[0] * z[1] + theta[2] * xp.cos(z[0]) * t,
        ]
    )


def loss(z, xp=np):
    return z[0] ** 2 + 0.5 * z[1] + xp.sin(z[0] * z[1])


def tensor(x):
    return torch.as_tensor(x, dtype=torch.float64)


def jacobians(t, z, theta=THETA):
    """The Jacobians of the field in z and in theta: five complex steps in one call."""
    x = np.concatenate([z, theta])[:, None] + 1j * EPS * np.eye(5)
    columns = np.imag(field(t, x[:2], x[2:])) / EPS
    return columns[:, :2], columns[:, 2:]


def loss_gradient(z):
    return complex_step(loss, z)


def ivp(fun, y0, t0, t1, dense=False):
    tight = dict(method="DOP853", rtol=1e-12, atol=1e-13)
    out = solve_ivp(fun, (t0, t1), y0, dense_output=dense, **tight)
    return out.sol if dense else out.y[:, -1]


def flow(t0, t1, z0, theta):
    """z(t1) from z(t0) = z0; in rescaled time, so that t0 and t1 may be complex too."""
    span = t1 - t0
    y0 = np.asarray(z0, dtype=complex)
    return ivp(lambda s, z: span * field(t0 + s * span, z, theta), y0, 0.0, 1.0)


def complex_step(fun, x):
    """The gradient of fun at the real vector x, one complex step a component."""
    x = np.asarray(x, dtype=complex)
    return np.array([np.imag(fun(x + 1j * EPS * e)) / EPS for e in np.eye(len(x))])


def adjoint_path(transpose=True):
    """The trajectory and the adjoint on [T0, T1] by scipy, as functions of time."""
    path = ivp(lambda t, z: field(t, z, THETA), Z0, T0, T1, dense=True)

    def backward(t, a):
        fz, _ = jacobians(t, path(t))
        return -(fz.T if transpose else fz) @ a

    return path, ivp(backward, loss_gradient(path(T1)), T1, T0, dense=True)


def quad(fun, a, b, nodes=80):
    x, w = np.polynomial.legendre.leggauss(nodes)
    t = 0.5 * (b - a) * x + 0.5 * (a + b)
    return 0.5 * (b - a) * sum(wi * fun(ti) for wi, ti in zip(w, t, strict=True))
