"""Claims on stable architectures, and the networks of `ode.stable`."""

import math

import pytest
import torch
from torch.nn import functional as F

from nodes_tutorial.ode.stability.conv import ConvStableNet, adjoint_kernel
from nodes_tutorial.ode.stability.networks import AntisymmetricNet, PlainNet, VerletNet
from nodes_tutorial.ode.stability.symplectic import leapfrog, verlet_step
from tests.ode.stability_cases import KINDS, f64, gen, normal


def rough(kind, seed=0):
    """A network whose layers differ."""
    net = KINDS[kind](generator=gen(seed), dtype=f64)
    with torch.no_grad():
        for i, w in enumerate(net.weights):
            w.add_(0.5 * normal(*w.shape, seed=10 * seed + i))
    return net


# --- stability of Euler's method ------------------------------------------------------------------


@pytest.mark.claim("thm-stability-euler-region")
def test_powers_of_the_euler_matrix_are_bounded_exactly_in_the_disc(measured):
    h, worst = 0.3, 0.0
    for seed in range(40):
        V, lam = normal(4, 4, seed=seed), torch.zeros(4, 4, dtype=f64)
        a, w = 3 * normal(2, seed=100 + seed) - 2
        lam[:2, :2] = torch.stack([torch.stack([a, w]), torch.stack([-w, a])])
        lam[2, 2], lam[3, 3] = -1.0, -2.0
        J = V @ lam @ torch.linalg.inv(V)
        radius = (1 + h * torch.linalg.eigvals(J)).abs().max().item()
        size = torch.linalg.matrix_power(torch.eye(4, dtype=f64) + h * J, 400).abs().max().item()
        grows = math.log(size) / 400
        if abs(radius - 1) > 0.05:
            assert (size < 1e6) == (radius <= 1)
        worst = max(worst, abs(grows - math.log(radius)) if radius > 1 else 0.0)
    assert measured(worst, "growth rate against log of the spectral radius") < 0.02
    # on the boundary: |1 + h lambda| = 1 with a basis of eigenvectors stays bounded
    for seed in range(10):
        V = normal(3, 3, seed=seed)
        angle = torch.tensor(0.3 + seed / 10, dtype=f64)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
        step = V @ torch.block_diag(turn, torch.ones(1, 1, dtype=f64)) @ torch.linalg.inv(V)
        J = (step - torch.eye(3, dtype=f64)) / h
        assert abs((1 + h * torch.linalg.eigvals(J)).abs().max() - 1) < 1e-10
        power = torch.linalg.matrix_power(torch.eye(3, dtype=f64) + h * J, 1000)
        size = torch.linalg.matrix_norm(power, 2)
        assert size <= torch.linalg.cond(V) * (1 + 1e-6)
    # modulus one and a Jordan block: the disc alone does not suffice
    jordan = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=f64)
    assert torch.linalg.matrix_power(torch.eye(2, dtype=f64) + h * jordan, 1000).max() > 100


@pytest.mark.claim("thm-stability-antisymmetric")
@pytest.mark.parametrize("zeros", [0, 2, 3])
def test_real_parts_for_antisymmetric_matrices(zeros, measured):
    K, s = normal(200, 5, 5), normal(200, 5, seed=1).abs()
    s[:, :zeros] = 0
    A = (K.mT - K) / 2
    real = torch.linalg.eigvals(s[..., None] * A).real.abs().max()
    # a zero eigenvalue of a defective matrix moves by the root of the rounding error
    assert measured(real, "real part, gamma = 0") < (1e-12 if zeros == 0 else 2e-6)
    damped = s[..., None] * (A - 0.35 * torch.eye(5, dtype=f64))
    assert torch.linalg.eigvals(damped).real.max() < 1e-6
    wrong = s[..., None] * (K - 0.35 * torch.eye(5, dtype=f64))  # not antisymmetrized
    assert torch.linalg.eigvals(wrong).real.max() > 0.1
    if zeros == 0:
        s_min, s_max = s.min(1).values, s.max(1).values
        values = torch.linalg.eigvals(damped).real
        assert (values <= -0.35 * s_min[:, None] + 1e-9).all()
        assert (values >= -0.35 * s_max[:, None] - 1e-9).all()


@pytest.mark.claim("cor-stability-stretch")
@pytest.mark.parametrize("gamma", [0.0, 0.4])
def test_stretching_of_a_frozen_antisymmetric_layer(gamma, measured):
    for seed in range(10):
        K, s = normal(5, 5, seed=seed), 0.05 + normal(5, seed=seed + 50).abs()
        A, D = (K.mT - K) / 2, torch.diag(s)
        limit = (s.max() / s.min()).sqrt()
        start = normal(5, seed=seed + 90)
        weighted = []
        for t in torch.linspace(0, 20, 101, dtype=f64):
            flow = torch.linalg.matrix_exp(t * D @ (A - gamma * torch.eye(5, dtype=f64)))
            assert torch.linalg.matrix_norm(flow, 2) <= limit + 1e-9
            weighted.append((flow @ start).square() @ (1 / s))
        weighted = torch.stack(weighted)
        if gamma == 0:
            drift = (weighted / weighted[0] - 1).abs().max()
            assert measured(drift, "e^T D^-1 e along the flow") < 1e-10
        else:
            assert (weighted.diff() <= 1e-12).all()
        # the plain norm is not what is conserved
        assert (torch.linalg.matrix_norm(flow, 2) - 1).abs() > 1e-3


@pytest.mark.claim("cor-stability-stretch")
def test_the_stretching_is_attained_and_needs_positive_slopes(measured):
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=f64)
    for ratio in (16.0, 1e4):
        D = torch.diag(torch.tensor([1.0, 1 / ratio], dtype=f64))
        quarter = math.pi / 2 * math.sqrt(ratio)
        size = torch.linalg.matrix_norm(torch.linalg.matrix_exp(quarter * D @ turn), 2)
        assert measured((size / math.sqrt(ratio) - 1).abs(), "attained") < 1e-9
        assert size > 1.5 * ratio**0.25, "the fourth root would be too small"
    # a slope of zero: linear growth without end
    D = torch.diag(torch.tensor([1.0, 0.0], dtype=f64))
    assert torch.linalg.matrix_exp(1e3 * D @ turn).abs().max() > 900


@pytest.mark.claim("prop-stability-counterexample")
def test_stable_weights_do_not_make_a_stable_field(measured):
    A = torch.tensor([[1.0, -4.0], [1.0, -2.0]], dtype=f64)
    s = torch.tensor([1.0, 0.1], dtype=f64)
    before, after = torch.linalg.eigvals(A), torch.linalg.eigvals(s[:, None] * A)
    imag = torch.tensor([math.sqrt(7) / 2, 0.2], dtype=f64)
    error = max(
        (before.real + 0.5).abs().max(),
        (after.real - 0.4).abs().max(),
        (before.imag.abs() - imag[0]).abs().max(),
        (after.imag.abs() - imag[1]).abs().max(),
    )
    assert measured(error, "against the characteristic polynomials") < 1e-12
    # slopes of tanh that do this, at the state where K^T y = arctanh(sqrt(1 - s))
    y = torch.linalg.solve(A, torch.atanh(torch.sqrt(1 - s)))
    net = PlainNet(2, 1, 1.0, dtype=f64)
    with torch.no_grad():
        net.K.copy_(A.mT[None])
        net.b.zero_()
    assert (net.eigenvalues(y[None]).real - 0.4).abs().max() < 1e-7
    # D A is stable for all D >= 0 if A + A^T is negative semidefinite
    assert torch.linalg.eigvalsh(A + A.mT).max() > 0


@pytest.mark.claim("prop-stability-growth")
@pytest.mark.parametrize("h, omega, gamma", [(0.1, 1.0, 0.0), (0.3, 2.0, 0.0), (0.1, 1.0, 0.08)])
def test_growth_of_euler_on_a_rotation(h, omega, gamma, measured):
    A = torch.tensor([[-gamma, -omega], [omega, -gamma]], dtype=f64)
    step, y = torch.eye(2, dtype=f64) + h * A, normal(2)
    for n in (1, 10, 200):
        size = (torch.linalg.matrix_power(step, n) @ y).norm() / y.norm()
        factor = ((1 - h * gamma) ** 2 + h**2 * omega**2) ** (n / 2)
        assert measured((size / factor - 1).abs(), "growth") < 1e-11
        assert n == 1 or abs(size / (1 + h * omega) ** n - 1) > 1e-2
    limit = 2 * gamma / (gamma**2 + omega**2)
    for inside in (0.99, 1.01):
        radius = (1 - inside * limit * gamma) ** 2 + (inside * limit * omega) ** 2
        assert gamma == 0 or (radius < 1) == (inside < 1)


@pytest.mark.claim("prop-stability-growth")
def test_antisymmetric_net_grows_without_damping_and_not_with_it():
    y = 1e-3 * normal(20, 2)
    sizes = {}
    for gamma in (0.0, 1.0):
        net = AntisymmetricNet(2, 400, 200.0, gamma=gamma, dtype=f64)
        with torch.no_grad():
            net.K.copy_(torch.tensor([[0.0, -1.0], [1.0, 0.0]]).expand_as(net.K))
            net.b.zero_()
        sizes[gamma] = (net(y).norm(dim=1) / y.norm(dim=1)).min().item()
    assert sizes[0.0] > 100 and sizes[1.0] < 1


EXAMPLE = {  # the paper's matrix, the distance of y1 and y2 after ten layers
    "K+": ([[2.0, -2.0], [0.0, 2.0]], 1.2071),
    "K-": ([[-2.0, 0.0], [2.0, -2.0]], 0.0787),
    "K0": ([[0.0, -1.0], [1.0, 0.0]], 0.2973),
}


@pytest.mark.parametrize("name", EXAMPLE)
def test_first_example_of_the_paper(name):
    K, distance = EXAMPLE[name]
    net = PlainNet(2, 10, 1.0, dtype=f64)
    with torch.no_grad():
        net.K.copy_(torch.tensor(K).expand_as(net.K))
        net.b.zero_()
    y = torch.tensor([[0.1, 0.1], [-0.1, -0.1], [0.0, 0.5]], dtype=f64)
    end = net(y)
    assert abs((end[0] - end[1]).norm() - distance) < 5e-5
    if name == "K-":
        with torch.no_grad():
            net.K[:, 1, 1] = -1.0  # as the slides print it
        end = net(y)
        assert abs((end[0] - end[1]).norm() - 0.1373) < 5e-5


# --- second-order networks ------------------------------------------------------------------------


@pytest.mark.claim("prop-stability-second-order")
@pytest.mark.parametrize("kind", ["leapfrog", "verlet"])
def test_eigenvalues_of_second_order_networks_are_imaginary(kind, measured):
    for seed in range(5):
        values = rough(kind, seed).eigenvalues(normal(50, 3, seed=seed))
        assert measured(values.real.abs().max(), "real part") < 1e-6  # 0 is a double root
    assert values.imag.abs().max() > 0.1


@pytest.mark.claim("prop-stability-second-order")
def test_the_other_sign_in_the_second_row_is_a_saddle():
    net, y = rough("verlet"), normal(50, 3)
    J = net.jacobians(y)
    J[..., 3:, :] *= -1  # z' = +tanh(K^T y + b), as printed
    values = torch.linalg.eigvals(J)
    assert values.real.max() > 0.1
    assert values.imag.abs().max() < 1e-6  # 0 is a double root
    order = values.real.sort(-1).values
    assert (order + order.flip(-1)).abs().max() < 1e-6  # pairs mu, -mu


@pytest.mark.claim("prop-stability-step")
@pytest.mark.parametrize("hidden", [3, 5])
def test_a_frozen_verlet_layer_is_bounded_up_to_two(hidden, measured):
    """The layer of the package, linearized by autograd at states with all kinds of slopes."""
    K, b, c = 2 * normal(4, hidden), normal(hidden, seed=1) / 4, normal(4, seed=2) / 4
    for seed in range(5):
        x = normal(4 + hidden, seed=seed + 5) / 4

        def layer(x, h, K=K, b=b, c=c):
            y, z = verlet_step(
                x[:4], x[4:], lambda y: torch.tanh(y @ K + b), lambda z: torch.tanh(K @ z + c), h
            )
            return torch.cat([y, z])

        def largest(h, x=x):
            """h times the largest singular value, with the slopes that the layer meets."""
            z = x[4:] - h * torch.tanh(x[:4] @ K + b)
            s, r = 1 - torch.tanh(x[:4] @ K + b) ** 2, 1 - torch.tanh(K @ z + c) ** 2
            return h * torch.linalg.matrix_norm(r.sqrt()[:, None] * K * s.sqrt(), 2).item()

        met = set()
        for h in torch.linspace(0.05, 3, 40).tolist():
            M = torch.func.jacrev(layer)(x, h)
            radius, size = torch.linalg.eigvals(M).abs().max().item(), largest(h)
            if size < 1.99:
                met.add("inside")
                assert measured(abs(radius - 1), "spectral radius below two") < 1e-6
                assert torch.linalg.matrix_power(M, 2000).norm() < 1e6
            elif size > 2.01:
                met.add("outside")
                assert torch.linalg.eigvals(M).real.min() < -1.001
        assert "inside" in met
    assert "outside" in met


@pytest.mark.claim("prop-stability-step")
def test_a_frozen_leapfrog_layer_has_the_same_limit():
    C, s = normal(3, 3), 0.1 + normal(3, seed=1).abs()
    force = s[:, None] * (C.mT @ C)
    top = torch.linalg.matrix_norm(C * s.sqrt(), 2)
    for share, bounded in ((1.98, True), (2.02, False)):
        u, _ = leapfrog(
            normal(3, seed=2), torch.zeros(3, dtype=f64), lambda u: force @ u, share / top, 400
        )
        assert bool(u.abs().max() < 1e3) is bounded
    # a C that is not invertible: what it does not see moves along a straight line
    start, speed = torch.tensor([0.0, 1.0], dtype=f64), torch.tensor([0.0, 1.0], dtype=f64)
    flat = torch.diag(torch.tensor([1.0, 0.0], dtype=f64))
    u, _ = leapfrog(start, speed, lambda u: flat @ u, 1.0, 1000)
    assert u[1] > 1000


@pytest.mark.claim("prop-stability-second-order")
def test_block_form_flips_the_second_bias(measured):
    K, b, y, z = normal(4, 4), normal(4, seed=1), normal(4, seed=2), normal(4, seed=3)
    zero = torch.zeros_like(K)
    block = torch.cat([torch.cat([zero, K], 1), torch.cat([-K.mT, zero], 1)])
    printed = torch.tanh(block @ torch.cat([y, z]) + torch.cat([b, b]))
    pair = torch.cat([torch.tanh(K @ z + b), -torch.tanh(K.mT @ y + b)])
    flipped = torch.cat([torch.tanh(K @ z + b), -torch.tanh(K.mT @ y - b)])
    assert measured((printed - flipped).abs().max(), "block form against flipped bias") < 1e-14
    assert (printed - pair).abs().max() > 0.1


@pytest.mark.claim("prop-stability-second-order")
def test_verlet_network_keeps_volume_and_is_no_hamiltonian_map():
    K, b, c = normal(2, 2), normal(2, seed=1), normal(2, seed=2)

    def layer(x):
        z = x[2:] - 0.5 * torch.tanh(x[:2] @ K + b)
        return torch.cat([x[:2] + 0.5 * torch.tanh(z @ K.mT + c), z])

    M = torch.func.jacrev(layer)(normal(4, seed=3))
    omega = torch.zeros(4, 4, dtype=f64)
    omega[:2, 2:], omega[2:, :2] = torch.eye(2), -torch.eye(2)
    assert abs(torch.linalg.det(M) - 1) < 1e-13
    assert (M.mT @ omega @ M - omega).abs().max() > 1e-2


# --- the networks ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_fast_pass_equals_the_layer_by_layer_one_with_all_gradients(kind):
    net, y, w = rough(kind), normal(4, 3).requires_grad_(), normal(4, 3, seed=1)
    fast, slow = net(y), net.states(y)
    assert len(slow) == net.layers + 1
    assert (fast - slow[-1]).abs().max() < 1e-14
    ours = torch.autograd.grad((fast * w).sum(), [y, *net.weights])
    theirs = torch.autograd.grad((slow[-1] * w).sum(), [y, *net.weights])
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_gradcheck(kind):
    net = rough(kind)

    def run(y, *weights):
        from nodes_tutorial.ode.stability.sweeps import propagate

        return propagate(net.sweep, net.h, y, *net.operators(*weights))

    weights = [w.detach().requires_grad_() for w in net.weights]
    assert torch.autograd.gradcheck(run, (normal(2, 3).requires_grad_(), *weights))


@pytest.mark.parametrize("kind", KINDS)
def test_linearization_is_the_jacobian_and_its_transpose(kind):
    net, y, g = rough(kind), normal(4, 3), normal(4, 3, seed=5)
    change = tuple(normal(*w.shape, seed=i) for i, w in enumerate(net.weights))
    linear = net.linearize(y)
    assert (linear.out - net(y)).abs().max() < 1e-14
    left = (linear.push(change) * g).sum()
    right = sum((v * w).sum() for v, w in zip(change, linear.pull(g), strict=True))
    assert abs(left - right) < 1e-12
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            moved = [w + sign * 1e-5 * v for w, v in zip(net.weights, change, strict=True)]
            ends.append(net.sweep.run(net.h, y, *net.operators(*moved))[0])
    assert ((ends[0] - ends[1]) / 2e-5 - linear.push(change)).abs().max() < 1e-8


@pytest.mark.parametrize("kind", KINDS)
def test_jacobians_against_autograd(kind):
    net, y = rough(kind), normal(2, 3)
    depth, size = 3, net.jacobians(y).shape[-1]
    with torch.no_grad():
        operators = [w[depth] for w in net.operators(*net.weights)]

    def field(x):
        if kind == "verlet":
            K, b, c = operators
            return torch.cat([torch.tanh(K @ x[3:] + c), -torch.tanh(K.mT @ x[:3] + b)])
        A, b = operators
        force = torch.tanh(x[:3] @ A + b)
        return torch.cat([x[3:], force]) if kind == "leapfrog" else force

    with torch.no_grad():
        _, record = net.sweep.run(net.h, y, *net.operators(*net.weights))
    state = record.states[0][depth, 0]
    if kind == "verlet":  # the slopes of the kick at y and of the drift at the new z
        state = torch.cat([state, record.states[1][depth + 1, 0]])
    elif kind == "leapfrog":
        state = torch.cat([state, torch.zeros(3, dtype=f64)])
    with torch.no_grad():
        dense = torch.func.jacrev(field)(state)
    assert dense.shape == (size, size)
    assert (net.jacobians(y)[depth, 0] - dense).abs().max() < 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_initial_weights_follow_the_generator_and_do_not_change_with_depth(kind):
    one, two = (KINDS[kind](generator=gen(3)) for _ in range(2))
    for a, b in zip(one.weights, two.weights, strict=True):
        assert torch.equal(a, b) and (a == a[:1]).all()
    y = torch.zeros(2, 3)
    assert one(y).dtype == torch.float32
    assert one.double()(y.double()).dtype == f64
    fresh = KINDS[kind](generator=gen(4), dtype=f64)
    fresh.load_state_dict(one.state_dict())
    assert torch.equal(fresh(y.double()), one(y.double()))


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="layers"):
        PlainNet(2, 0, 1.0)
    with pytest.raises(ValueError, match="T must be positive"):
        PlainNet(2, 1, 0.0)
    with pytest.raises(ValueError, match="gamma must be at least 0, got -1"):
        AntisymmetricNet(2, 1, 1.0, gamma=-1)
    with pytest.raises(ValueError, match="hidden must be positive, got 0"):
        VerletNet(2, 1, 1.0, hidden=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_networks_run_on_a_gpu(kind):
    net, y = rough(kind), normal(4, 3)
    here = net(y)
    assert (net.cuda()(y.cuda()).cpu() - here).abs().max() < 1e-12


# --- convolutions ---------------------------------------------------------------------------------


@pytest.mark.claim("thm-stability-antisymmetric")
def test_convolution_of_the_antisymmetric_kernel_is_an_antisymmetric_matrix(measured):
    net = ConvStableNet("antisymmetric", 2, 1, 1.0, gamma=0.3, generator=gen()).double()
    basis = torch.eye(2 * 5 * 5, dtype=f64).view(-1, 2, 5, 5)
    with torch.no_grad():
        A = F.conv2d(basis, net.operators()[0], padding=1).flatten(1)
        plain = F.conv2d(basis, net.K[0], padding=1).flatten(1)
        star = F.conv2d(basis, adjoint_kernel(net.K[0]), padding=1).flatten(1)
    gap = (A + A.mT + 0.3 * torch.eye(50, dtype=f64)).abs().max()
    assert measured(gap, "K - K^T of a convolution") < 1e-13
    assert (star - plain.mT).abs().max() < 1e-13
    unflipped = F.conv2d(basis, net.K[0].detach().transpose(0, 1), padding=1).flatten(1)
    assert (unflipped - plain.mT).abs().max() > 1e-2


@pytest.mark.parametrize("kind", ["plain", "antisymmetric", "verlet"])
def test_convolutional_networks_refine(kind):
    net = ConvStableNet(kind, 3, 8, 2.0, hidden=2, generator=gen()).double()
    x = normal(4, 3, 6, 6)
    fine = net.refined()
    assert len(fine.K) == 16 and fine.h == net.h / 2
    with torch.no_grad():
        first = (fine(x) - net(x)).abs().max()
        second = (fine.refined()(x) - fine(x)).abs().max()
    assert second < 0.6 * first
    net(x).sum().backward()
    assert all(w.grad.abs().max() > 0 for w in net.weights)
    with pytest.raises(ValueError, match="kind must be one of"):
        ConvStableNet("other", 3, 8, 2.0)
