"""Every algorithm on a device that is not the host, without one; and where the host waits for it.

PyTorch's FakeTensorMode carries tensors that say they are on CUDA and hold no numbers. Where a
tensor of another device comes in, or the host asks for a number, it raises, as a GPU would raise
or wait. It cannot follow autograd, whose nodes ask for the real device: only forward computations
without operations of our own are tried. Some operations ask for the device as well, and are done
here by others that do the same.
"""

from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nodes_tutorial import linalg
from nodes_tutorial.bayes import (
    VAE,
    BayesianMLP,
    DropoutMLP,
    FullRankGaussian,
    MeanFieldGaussian,
    NormalPrior,
    active_units,
    best_linear_vae,
    bootstrap,
    confidence_bins,
    divergence_posterior,
    gibbs_objective,
    gibbs_posterior,
    hmc,
    leave_p_out_from_evidence,
    mutual_information_gap,
    rate_parts,
)
from nodes_tutorial.bayes.backprop import draw_with_divergence
from nodes_tutorial.bayes.sgld import sgld
from nodes_tutorial.data import toy2d
from nodes_tutorial.data.shapes import ellipses
from nodes_tutorial.data.sinusoids import Sinusoids
from nodes_tutorial.data.tasks import TaskSampler
from nodes_tutorial.data.timeseries import periodic
from nodes_tutorial.flows import (
    CNF,
    IAF,
    MAF,
    NICE,
    NSF,
    BoxTarget,
    ContextField,
    Flow,
    Gaussian,
    Glow,
    HyperField,
    InvertibleLinear,
    KernelDensity,
    Logit,
    PlanarField,
    PlanarTransform,
    PosteriorVelocity,
    RealNVP,
    StandardNormal,
    bits_per_dim,
    data_init,
    dequantize,
    evidence,
    fit_gaussian,
    flow_matching_loss,
    importance,
    loo_log_likelihood,
    optimal_pairs,
    penalized_nll,
    quantize,
    reverse_kl,
    score_from_velocity,
    stochastic_push,
    straightness,
    wasserstein2,
)
from nodes_tutorial.flows.natural import NaturalGradient
from nodes_tutorial.generalization import (
    bernoulli,
    categorical,
    erf_ntk,
    exact_generalization,
    fisher_matrix,
    gaussian,
    gaussian_jensen_shannon,
    gaussian_scale,
    heavy_ball,
    individual_bound,
    jensen_shannon,
    ntk_gp,
    relu_ntk,
    sgld_information,
    xu_raginsky_bound,
)
from nodes_tutorial.implicit import hypergradient
from nodes_tutorial.invariance import (
    DeepSets,
    Equivariant,
    adjust,
    attend,
    center_surround,
    curvature,
    elementary,
    expectimax,
    importance_moments,
    irm_penalty,
    oriented_energy,
    power_sums,
    rex_penalty,
)
from nodes_tutorial.meta import (
    DKT,
    Baseline,
    BayesianHyperMAML,
    GaussianWeights,
    HyperMAML,
    ProtoNet,
    averaged_loss,
    chaser_loss,
    linear_head,
    modified_hausdorff,
    support_rows,
    svgd_direction,
)
from nodes_tutorial.nets import MLP, Conv4, TimeMLP
from nodes_tutorial.nets.stack import Stack
from nodes_tutorial.ode import odeint
from nodes_tutorial.ode.augmented import AugmentedODE
from nodes_tutorial.ode.known_unknowns.forecast import LSTMForecast
from nodes_tutorial.ode.known_unknowns.goku import GOKUNet
from nodes_tutorial.ode.known_unknowns.identifiability import grounding_loss
from nodes_tutorial.ode.known_unknowns.systems import (
    pendulum,
    render_rod,
    semi_implicit_pendulum,
)
from nodes_tutorial.ode.latent import LatentODE
from nodes_tutorial.ode.misspecified.circulation import cardiovascular, cardiovascular_signals

pytestmark = [
    pytest.mark.usefixtures("as_at_the_users"),
    pytest.mark.filterwarnings("ignore:PyTorch was compiled without cuDNN"),
    pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor"),
]


STAND_INS = {
    Tensor.__iand__: torch.bitwise_and,
    Tensor.__ior__: torch.bitwise_or,
    Tensor.__iadd__: torch.add,
    Tensor.contiguous: torch.clone,
}


class Brackets(TorchFunctionMode):
    """``x[...]`` of a fake tensor, and the one answer to every yes-or-no question of the host."""

    def __init__(self, answer=None):
        super().__init__()
        self.answer = answer

    def __torch_function__(self, function, types, args=(), kwargs=None):
        there = bool(args) and isinstance(args[0], Tensor) and args[0].device.type == "cuda"
        if there and function is Tensor.__bool__ and self.answer is not None:
            return self.answer
        if there and function is Tensor.__getitem__:
            return take(*args)
        if there and function in STAND_INS:
            return STAND_INS[function](*args)
        return function(*args, **(kwargs or {}))


def take(x, index):
    index = index if isinstance(index, tuple) else (index,)
    used = sum(1 for i in index if i is not None and i is not Ellipsis)
    axis, tensors = 0, {}
    for i in index:
        if i is Ellipsis:
            axis += x.ndim - used + 0 if axis == 0 else x.ndim - axis - (used - axis)
        elif i is None:
            x, axis = x.unsqueeze(axis), axis + 1
        elif isinstance(i, int):
            x, used = x.select(axis, i), used - 1
        elif isinstance(i, slice):
            x = torch.ops.aten.slice(x, axis, i.start, i.stop, i.step or 1)
            axis += 1
        else:
            tensors[axis] = i
            axis += 1
    if tensors:
        x = torch.ops.aten.index(x, [tensors.get(k) for k in range(max(tensors) + 1)])
    return x


@contextmanager
def device(monkeypatch, answer=None):
    """Within it all is fake; small tensors on the host, such as times, keep their numbers."""
    monkeypatch.setattr(fake_tensor, "CONSTANT_NUMEL_LIMIT", 64)
    with fake_tensor.FakeTensorMode() as mode, torch.no_grad(), Brackets(answer):
        yield mode


def like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device="cuda")


def moved(module: nn.Module) -> nn.Module:
    """A module with its weights and buffers on the fake device; built on the host before."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = nn.Parameter(like(value), requires_grad=False)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = like(value)
    return module


GRID = {"method": "rk4", "options": {"step_size": 0.25}}
SILU = ([4], "silu")  # other activations have a backward pass of their own, which fakes cannot take
FILM = torch.zeros(3, 4, 5)


def flow(transform):
    return Flow(StandardNormal(2), [transform])


DENSITIES = {
    "normal": lambda: StandardNormal(2),
    "gaussian": lambda: Gaussian(torch.zeros(2), torch.eye(2)),
    "kernel": lambda: KernelDensity(torch.randn(20, 2)),
    "mean field": lambda: MeanFieldGaussian(torch.zeros(2)),
    "full rank": lambda: FullRankGaussian(torch.zeros(2)),
    "nice": lambda: NICE(2),
    "realnvp": lambda: RealNVP(2, actnorm=True),
    "maf": lambda: MAF(2, actnorm=True),
    "iaf": lambda: IAF(2),
    "planar": lambda: flow(PlanarTransform(2)),
    "linear": lambda: flow(InvertibleLinear(2)),
    "logit": lambda: flow(Logit(1)),
    "cnf": lambda: flow(CNF(TimeMLP(2, *SILU), **GRID)),
    "cnf planar": lambda: flow(CNF(PlanarField(2, 4), **GRID)),
    "cnf estimated": lambda: flow(CNF(PlanarField(2, 4), "hutchinson", **GRID)),
    "glow": lambda: Glow((1, 4, 4), 1, 1, 4),
    "nsf": lambda: NSF(2, bins=4),
}


@pytest.mark.parametrize("name", DENSITIES)
def test_densities_stay_on_their_device(name, monkeypatch):
    """A solver asks once whether what it returns is finite; no other density asks anything."""
    density = DENSITIES[name]()
    with device(monkeypatch, True if "cnf" in name else None):
        density = moved(density)
        x = torch.empty(6, *density.event_shape, device="cuda")
        drawn, log_prob = density.rsample_and_log_prob(5)
        found = [density.log_prob(x), density.sample(5), drawn, log_prob]
        assert {y.device.type for y in found} == {"cuda"}


def rows(*shape):
    return lambda: torch.empty(*shape, device="cuda")


CONDITIONAL = {
    "nice": lambda: NICE(2, context=3),
    "realnvp": lambda: RealNVP(2, actnorm=True, context=3),
    "maf": lambda: MAF(2, actnorm=True, context=3),
    "iaf": lambda: IAF(2, context=3),
    "nsf": lambda: NSF(2, bins=4, context=3),
    "one entry": lambda: NSF(1, bins=4, context=3),
    "cnf": lambda: flow(CNF(ContextField(2, 3, *SILU), **GRID)),
    "cnf of a hypernetwork": lambda: flow(CNF(HyperField(2, 3, [4], [4], "silu"), **GRID)),
}


@pytest.mark.parametrize("name", CONDITIONAL)
def test_conditional_densities_stay_on_their_device(name, monkeypatch):
    """Nobody asks whether a context on a device is finite."""
    density = CONDITIONAL[name]()
    with device(monkeypatch, True if "cnf" in name else None):
        density = moved(density)
        x = torch.empty(5, *density.event_shape, device="cuda")
        for shape in ((5, 3), (3,)):
            context = torch.empty(shape, device="cuda")
            drawn, log_prob = density.rsample_and_log_prob(5, context=context)
            found = [density.log_prob(x, context), density.sample(5, context=context)]
            assert {y.device.type for y in (*found, drawn, log_prob)} == {"cuda"}


# name: a module made on the host, inputs, what is computed, the answer to the host's questions
def halves(support):
    """Labels of tasks with two classes."""
    return torch.arange(4, device=support.device).remainder(2).expand(3, 4)


COMPUTED = {
    "matching": (
        lambda: TimeMLP(2, *SILU), [rows(6, 2)], lambda f, x: flow_matching_loss(f, x), None
    ),
    "score": (
        lambda: None, [rows(6, 2)], lambda f, x: score_from_velocity(x, x[:, :1].sigmoid(), x), None
    ),
    "noise on the way": (
        lambda: TimeMLP(2, *SILU), [rows(6, 2)], lambda f, x: stochastic_push(f, x, 1.0, steps=2),
        None,
    ),
    "weights": (lambda: None, [rows(6, 2)], lambda f, x: evidence(x).ess, True),
    "importance": (
        lambda: NSF(2, bins=4, context=3), [rows(3)],
        lambda f, c: importance(lambda x: x[:, 0], f, 6, context=c).mean(c.new_ones(6)),
        True,
    ),
    "posterior velocity": (
        lambda: PosteriorVelocity(torch.randn(5, 2)), [rows(6, 2)],
        lambda f, x: f(x[:, :1], x), None,
    ),
    "straightness": (
        lambda: TimeMLP(2, *SILU), [rows(6, 2)], lambda f, x: straightness(f, x, **GRID), True
    ),
    "penalties": (
        lambda: flow(CNF(PlanarField(2, 4), regularize=("kinetic", "jacobian"), **GRID)),
        [rows(6, 2)],
        lambda f, x: penalized_nll(f, x, {"kinetic": 0.1, "jacobian": 0.1})[0], True,
    ),
    "box": (lambda: BoxTarget("U3"), [rows(6, 2)], lambda f, x: f.log_prob(x), None),
    "box alone": (lambda: BoxTarget("U1", 0.0), [rows(6, 2)], lambda f, x: f.log_prob(x), None),
    "bits": (lambda: None, [rows(6)], lambda f, x: bits_per_dim(x, 4, 256), None),
    "probes": (
        lambda: None, [rows(6, 2)],
        lambda f, x: linalg.draw_probes(3, x) + linalg.draw_probes(3, x, "gaussian"), None,
    ),
    "bayesian network": (
        lambda: BayesianMLP([2, 4, 3]), [rows(6, 2)],
        lambda f, x: f(x, 2) + f(x, 2, local=True) + f.kl(), None,
    ),
    "draw with divergence": (
        lambda: MeanFieldGaussian(torch.zeros(3)), [],
        lambda q: sum(draw_with_divergence(q, NormalPrior(), 4), torch.zeros((), device="cuda")),
        None,
    ),
    "dropout": (lambda: DropoutMLP([2, 4, 3]), [rows(6, 2)], lambda f, x: f(x, 2), None),
    "calibration": (lambda: None, [rows(6)], lambda f, x: confidence_bins(x, 3), None),
    "mlp": (lambda: MLP([2, 4, 3]), [rows(6, 2)], lambda f, x: f(x), None),
    "tangents": (
        lambda: TimeMLP(2, *SILU), [rows(6, 2)],
        lambda f, x: f.value_and_tangents(torch.tensor(0.5), x)[1], None,
    ),
    "conv4": (lambda: Conv4(width=2, classes=3), [rows(4, 1, 28, 28)], lambda f, x: f(x), None),
    "stack": (lambda: Stack([2, 4, 3], [None] * 3), [rows(3, 6, 2)], lambda f, x: f(x), None),
    "fixed steps": (
        lambda: TimeMLP(2, *SILU), [rows(6, 2)],
        lambda f, x: odeint(f, x, torch.tensor([0.0, 0.5, 1.0]), **GRID), True,
    ),
    "pendulum": (
        lambda: None, [rows(6, 2), rows(6, 1)], lambda f, z, p: pendulum(torch.tensor(0.0), z, p),
        None,
    ),
    "pendulum of games": (
        lambda: None, [rows(6, 2), rows(6)],
        lambda f, z, p: semi_implicit_pendulum(z, p, 4, 0.1), None,
    ),
    "rod": (lambda: None, [rows(6)], lambda f, x: render_rod(x), None),
    "circulation": (
        lambda: None, [rows(6, 4), rows(6, 2)],
        lambda f, z, p: cardiovascular_signals(cardiovascular(torch.tensor(0.0), z, p)), None,
    ),
    "goku": (
        lambda: GOKUNet(pendulum, 2, 1, 5, method="rk4"), [rows(3, 4, 5)],
        lambda f, x: f.loss(x, torch.tensor([0.0, 0.1, 0.2, 0.3])).loss, True,
    ),
    "forecast": (
        lambda: LSTMForecast(5, 8), [rows(3, 4, 5)], lambda f, x: f.extend(x, 3), None
    ),
    "grounding": (
        lambda: None, [rows(3, 4, 2)],
        lambda f, z: grounding_loss(z, z, torch.ones(3, 4, dtype=torch.bool, device="cuda")), None,
    ),
    "moons": (lambda: None, [rows(6, 2)], lambda f, x: toy2d.log_prob("moons", x), None),
    "scores": (lambda: None, [rows(3, 8)], lambda f, x: leave_p_out_from_evidence(x), None),
    "gibbs": (
        lambda: None, [rows(3, 8), rows(3, 8)], lambda f, x, p: gibbs_posterior(x, p), True
    ),
    "gibbs objective": (
        lambda: None, [rows(3, 8), rows(3, 8)], lambda f, x, p: gibbs_objective(p, x, p), True
    ),
    "divergence": (
        lambda: None, [rows(3, 8), rows(3, 8)],
        lambda f, x, p: divergence_posterior(x, p, "hellinger"), True,
    ),
    "roots of outputs": (
        lambda: None, [rows(6, 2)],
        lambda f, x: sum(
            law.root(x).sum() + law.sample(x, None).sum()
            for law in (bernoulli(), gaussian(), gaussian_scale())
        ) + categorical().root(x).sum(), None,
    ),
    "autoencoder": (
        lambda: VAE(MLP([5, 4]), MLP([2, 5]), 2.0), [rows(6, 5)], lambda f, x: f.loss(x), None
    ),
    "linear autoencoder": (
        lambda: None, [rows(4, 4)],
        lambda f, x: best_linear_vae(x @ x.mT, 2, 2.0).terms(x @ x.mT).loss(4, 2.0, 1.0), False,
    ),
    "rate": (lambda: None, [rows(6, 2), rows(6, 2)], lambda f, m, s: rate_parts(m, s)[0], None),
    "active": (lambda: None, [rows(6, 2)], lambda f, m: active_units(m), None),
    "gap": (
        lambda: None, [rows(3, 2), rows(2)], lambda f, i, h: mutual_information_gap(i, h), True
    ),
    "pictures": (lambda: None, [], lambda f: ellipses(8, (2, 2, 1, 2), device="cuda")[0], None),
    "divergence of laws": (
        lambda: None, [rows(3, 8), rows(3, 8)], lambda f, p, q: jensen_shannon(p, q), True
    ),
    "divergence of normal laws": (
        lambda: None, [rows(3, 2), rows(2)], lambda f, m, s: gaussian_jensen_shannon(m, s), True
    ),
    "generalization": (
        lambda: None, [rows(2), rows(2, 2)],
        lambda f, law, loss: sum(
            value.sum() for value in exact_generalization(law, 3, lambda c: c / 3, loss)
        ), True,
    ),
    "information bounds": (
        lambda: None, [rows(4)],
        lambda f, x: xu_raginsky_bound(x, 5) + individual_bound(x) + sgld_information(
            x, x, norm=1.0, dim=2
        ), True,
    ),
    "sets": (
        lambda: DeepSets(MLP([2, 4, 3]), MLP([3, 4, 1])), [rows(6, 5, 2)],
        lambda f, x: f(x, torch.ones(6, 5, dtype=torch.bool, device="cuda")), None,
    ),
    "maxima of sets": (
        lambda: DeepSets(MLP([2, 4, 3]), MLP([3, 4, 1]), "max"), [rows(6, 5, 2)],
        lambda f, x: f(x, torch.ones(6, 5, dtype=torch.bool, device="cuda")), True,
    ),
    "layer of sets": (lambda: Equivariant(2, 3), [rows(6, 5, 2)], lambda f, x: f(x), None),
    "attention": (lambda: None, [rows(6, 5, 2)], lambda f, x: attend(x, x, x), None),
    "curvature": (
        lambda: None, [rows(3, 8, 8)], lambda f, x: curvature(
            oriented_energy(center_surround(x), 2, 2).flatten(1)
        ), False,
    ),
    "power sums": (lambda: None, [rows(6, 3)], lambda f, x: elementary(power_sums(x)), None),
    "penalties of environments": (
        lambda: None, [rows(4, 6), rows(6)],
        lambda f, z, y: irm_penalty(z, y, halves=True) + rex_penalty(z), None,
    ),
    "adjustment": (
        lambda: None, [rows(2, 2, 2, 2, 3), rows(3)],
        lambda f, table, reward: adjust(table, reward), False,
    ),
    "importance weights": (
        lambda: None, [rows(2, 3), rows(2, 3), rows(3)],
        lambda f, b, target, reward: sum(importance_moments(b, target, reward)), False,
    ),
    "plan": (
        lambda: None, [rows(3, 2), rows(3, 2, 2), rows(3, 2, 2, 3)],
        lambda f, z, reward, follow: expectimax(z, reward, follow, steps=2).value, None,
    ),
    "wide kernels": (
        lambda: None, [rows(4, 3)],
        lambda f, x: relu_ntk(x, depth=2).ntk + erf_ntk(x, x).nngp, None,
    ),
    "wide ensemble": (
        lambda: None, [rows(4, 3), rows(4), rows(2, 3)],
        lambda f, x, y, new: ntk_gp(x, y, new, kernels=relu_ntk, time=2.0).mean, None,
    ),
    "heavy ball": (
        lambda: None, [rows(3, 2), rows(4)],
        lambda f, w, s: heavy_ball(lambda w, t: w, w, s, momenta=0.5), True,
    ),
    "prototypes": (
        lambda: ProtoNet(Conv4(width=2), check=False),
        [rows(3, 4, 1, 28, 28), rows(3, 5, 1, 28, 28)],
        lambda f, s, q: f((s, halves(s)), q, ways=2), None,
    ),
    "linear head": (lambda: None, [rows(3, 2)], lambda f, p: linear_head(p)[1], None),
    "transfer": (
        lambda: Baseline(Conv4(width=2), 8, 5, head="cosine"), [rows(3, 1, 28, 28)],
        lambda f, x: f(x), None,
    ),
    "point sets": (
        lambda: None, [rows(3, 4, 2), rows(3, 5, 2)],
        lambda f, a, b: modified_hausdorff(a, b, None, b[..., 0].isfinite()), None,
    ),
    "hypermaml": (
        lambda: HyperMAML(support_rows(2, 3), 2, 2), [rows(3, 4, 2), rows(3, 5, 2)],
        lambda f, s, q: f((s, halves(s)), q, 0.5), None,
    ),
    "gaussian heads": (
        lambda: BayesianHyperMAML(2), [rows(3, 4, 2)],
        lambda f, s: f(s, halves(s), 2).rsample_and_kl(5)[0], None,
    ),
    "cnf heads": (
        lambda: BayesianHyperMAML(2, "cnf", context=3, field=[4]), [rows(3, 4, 2)],
        lambda f, s: f(s, halves(s), 2).rsample_and_kl(5)[1], True,
    ),
    "averaged loss": (
        lambda: None, [rows(5, 3, 2)],
        lambda f, x: averaged_loss(x, x.new_zeros(3, dtype=torch.long), "logits"), None,
    ),
    "gp heads": (
        lambda: DKT(), [rows(3, 4, 2), rows(3, 5, 2)],
        lambda f, s, q: f(s, halves(s), q, 2).mean, True,
    ),
    "stein": (lambda: None, [rows(4, 2), rows(4, 2)], lambda f, p, s: svgd_direction(p, s), None),
    "chasers": (lambda: None, [rows(4, 2), rows(4, 2)], lambda f, p, s: chaser_loss(p, s), None),
    "bootstrap": (
        lambda: None, [rows(8)], lambda f, x: bootstrap(lambda sets: sets.mean(1), x, 5), None
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_algorithms_stay_on_their_device(name, monkeypatch):
    make, inputs, compute, answer = COMPUTED[name]
    module = make()
    with device(monkeypatch, answer):
        module = module if module is None else moved(module)
        assert compute(module, *(x() for x in inputs)).device.type == "cuda"


def test_the_fake_device_finds_what_it_should(monkeypatch):
    """The wrong variants: a tensor made on the host, and a question asked by the host."""
    with device(monkeypatch):
        x = torch.empty(3, 2, device="cuda")
        with pytest.raises(RuntimeError, match=r"(?s)device"):
            x + torch.ones(3, 2)
        with pytest.raises(fake_tensor.DataDependentOutputException):
            bool(x.isfinite().all())
        assert take(x, (slice(None), None, 0)).shape == (3, 1)
        assert take(x, (..., 0)).shape == (3,) and take(x, (..., None)).shape == (3, 2, 1)
        assert take(x, 1).shape == (2,) and take(x, slice(1, None)).shape == (2, 2)


class Waits(TorchDispatchMode):
    """Counts where the host would wait for a number or for a size that hangs on numbers."""

    KINDS = ("aten._local_scalar_dense", "aten.nonzero", "aten.equal", "aten.masked_select")

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += str(function).rpartition(".")[0] in self.KINDS
        return function(*args, **(kwargs or {}))


def g():
    return torch.Generator().manual_seed(0)


def points():
    return torch.randn(8, 2, generator=g())


X = points()
F = TimeMLP(2, [4], generator=g())
EPISODES = TaskSampler(
    torch.rand(12, 1, 4, 4), torch.arange(12) % 3, ways=2, shots=1, queries=2, rotations=True
)
TIMES = torch.tensor([0.0, 0.5, 1.0])
REALNVP = RealNVP(2, 2, [4], generator=g(), actnorm=True)
SPLINE = NSF(2, 2, [4], 4, generator=g())
GIVEN = RealNVP(2, 2, [4], generator=g(), context=2)
SMOOTH = flow(CNF(F, regularize=("kinetic",), **GRID))
NATURAL = NaturalGradient(RealNVP(2, 2, [4], generator=g()))
BOX = BoxTarget("U1")
A, B = torch.eye(8) + torch.ones(8, 8), torch.randn(4, 8, generator=g())

TIMES4 = torch.tensor([0.0, 0.1, 0.2, 0.3])
SEEN = periodic(3, g())[0]
LATENT = LatentODE(1, 2, hidden=4, width=5, method="rk4", options={"step_size": 5.0}, generator=g())
GOKU = GOKUNet(pendulum, 2, 1, 5, method="rk4", generator=g())
AUGMENTED = AugmentedODE(2, 1, generator=g(), **GRID)
BAYESIAN = BayesianMLP([2, 4, 3])
SETS = DeepSets(MLP([2, 4, 3], generator=g()), MLP([3, 4, 1], generator=g()))
PROTOTYPES, UNCHECKED = ProtoNet(nn.Flatten()), ProtoNet(nn.Flatten(), check=False)
CLASSES = torch.arange(8) % 2
GAUSSIAN_HEADS = GaussianWeights(X, X)
HYPER = HyperMAML(support_rows(2, 3, generator=g()), 2, 2, generator=g())


def gradient_of(mode):
    odeint(F, X, torch.tensor([0.0, 1.0]), gradient=mode, **GRID)[-1].sum().backward()


def normal(x):
    return -0.5 * x.square().sum(-1)


def decayed(w, lam):
    return 0.5 * (w - 1).square().sum() + 0.5 * lam * w.square().sum()


def validated(w, lam):
    return 0.5 * w.square().sum()


# name: the call, how often the host waits, and why it must
WAITS = {
    "density": (lambda: REALNVP.log_prob(X), 0, ""),
    "gradient": (lambda: REALNVP.log_prob(X).sum().backward(), 0, ""),
    "sample": (lambda: REALNVP.sample(5, g()), 0, ""),
    "reverse_kl": (lambda: reverse_kl(REALNVP, BOX, 5, g()), 0, ""),
    "spline": (lambda: SPLINE.log_prob(X), 0, ""),
    "context": (lambda: GIVEN.log_prob(X, X), 1, "the context is finite; not asked on a device"),
    "weights": (lambda: evidence(X), 1, "they are not all zero"),
    "natural step": (lambda: NATURAL.step(X, 0.1), 0, ""),
    "matching": (lambda: flow_matching_loss(F, X, generator=g()), 0, ""),
    "noise on the way": (lambda: stochastic_push(F, X, 1.0, steps=2, generator=g()), 0, ""),
    "probes": (lambda: linalg.draw_probes(2, X, generator=g()), 0, ""),
    "exact trace": (lambda: linalg.exact_trace(torch.sin, X), 0, ""),
    "bits": (lambda: bits_per_dim(X[:, 0], 4, 256), 0, ""),
    "episodes": (lambda: EPISODES.sample(3, g()), 0, ""),
    "prototypes": (lambda: PROTOTYPES((X, CLASSES), X, 2), 2, "classes are there, and in range"),
    "hypermaml": (lambda: HYPER((X, CLASSES), X), 6, "classes are there, and in range, twice"),
    "gaussian heads": (lambda: GAUSSIAN_HEADS.rsample_and_kl(3), 0, ""),
    "gp heads": (lambda: DKT()(X, CLASSES, X, 2), 3, "labels in range, and a factor that exists"),
    "unchecked prototypes": (lambda: UNCHECKED.loss((X, CLASSES), (X, CLASSES), 2), 0, ""),
    "sinusoids": (lambda: Sinusoids(3, 2).sample(4, g()), 0, ""),
    "toy": (lambda: toy2d.sample("moons", 8, g()), 0, ""),
    "forecast": (lambda: LSTMForecast(5, 8, generator=g()).extend(FILM, 3), 0, ""),
    "fixed steps": (lambda: odeint(F, X, TIMES, **GRID), 1, "the outputs are finite"),
    "flow by fixed steps": (lambda: SMOOTH.log_prob(X), 1, "as the solver"),
    "penalties": (lambda: penalized_nll(SMOOTH, X, {"kinetic": 0.1}), 1, "as the solver"),
    "straightness": (lambda: straightness(F, X, **GRID), 1, "as the solver"),
    "data_init": (lambda: data_init(REALNVP, X), 1, "the data are finite"),
    "quantize": (lambda: quantize(X, 4), 1, "no NaN"),
    "dequantize": (lambda: dequantize(X.long().abs(), 9, g()), 2, "least and largest pixel"),
    "fit": (lambda: fit_gaussian(X), 5, "span: factor and pivots; mean, factor, its numbers"),
    "leave one out": (lambda: loo_log_likelihood(X, torch.ones(3)), 1, "bandwidths positive"),
    "cg": (
        lambda: linalg.cg(lambda v: v @ A, B, max_iterations=2, rtol=0.0), 3,
        "is one active, before each step; all finite, once",
    ),
    "lanczos": (lambda: linalg.lanczos(lambda v: v @ A, B, 3), 2, "all finite; symmetric"),
    "neumann": (
        lambda: linalg.neumann(lambda v: v @ A, B, terms=5), 5,
        "as Lanczos; positive; all finite; no term grew",
    ),
    "neumann with a factor": (
        lambda: linalg.neumann(lambda v: v @ A, B, terms=5, alpha=0.1), 2,
        "all finite; no term grew",
    ),
    "own gradient": (lambda: gradient_of("checkpoint"), 2, "as the solver; the field is unchanged"),
    "adjoint": (
        lambda: gradient_of("adjoint"), 3, "the solver, twice: there and back; field unchanged"
    ),
    "augmented": (lambda: AUGMENTED(X), 1, "as the solver"),
    "latent": (
        lambda: LATENT.elbo(SEEN, generator=g()), 3,
        "times begin together; the most values of a series; as the solver",
    ),
    "goku": (
        lambda: GOKU.loss(FILM, TIMES4, generator=g()), 2, "is a weight given; as the solver"
    ),
    "hmc": (
        lambda: hmc(normal, X, steps=4, leapfrog=3, step_size=0.3, generator=g()), 1,
        "the density at the start, once for all steps",
    ),
    "sgld": (
        lambda: sgld(normal, X, steps=8, step_size=0.1, generator=g()), 1,
        "did a chain run away, once at the end",
    ),
    "bayesian network": (lambda: BAYESIAN(X, 2) + BAYESIAN.kl(), 0, ""),
    "autoencoder": (lambda: VAE(MLP([2, 2]), MLP([1, 2]), 2.0).loss(X), 0, ""),
    "sets": (
        lambda: SETS(X[None], torch.ones(1, 8, dtype=torch.bool)), 0, "",
    ),
    "wide kernels": (lambda: relu_ntk(X, depth=2).ntk, 0, ""),
    "conv4": (lambda: Conv4(width=2, classes=3)(torch.rand(4, 1, 28, 28)), 0, ""),
    "fisher": (
        lambda: fisher_matrix(MLP([2, 3]), X, likelihood=gaussian()).matrix(), 1,
        "rows alone are as rows together",
    ),
    "hypergradient": (
        lambda: hypergradient(decayed, validated, torch.tensor([0.5]), torch.tensor(1.0)), 7,
        "stationary; in cg: active, twice, a flat direction, finite; curvature; residual",
    ),
    "cg, seldom asked": (
        lambda: linalg.cg(lambda v: v @ A, B, max_iterations=2, rtol=0.0, check_every=2), 2,
        "one look for both steps; all finite, once",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WAITS)
def test_the_host_waits_only_where_it_must(name):
    call, count, reason = WAITS[name]
    with Waits() as waits:
        call()
    assert waits.count == count, reason


def test_optimal_pairs_are_made_on_the_host():
    """Their cost matrix is copied once, which is no question but waits all the same."""
    pairs = flow_matching_loss(F, X, coupling="ot", generator=g())
    assert pairs.isfinite() and wasserstein2(X, X[optimal_pairs(X, X)]) == 0
