"""What a user passes by mistake: every way in names the argument, none makes a number of it."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from nodes_tutorial.flows import (
    CNF,
    IAF,
    MAF,
    NICE,
    NSF,
    ActNorm,
    AffineCoupling,
    AutoregressiveAffine,
    BoxTarget,
    Chain,
    ContextField,
    Diagonal,
    Flow,
    Gaussian,
    Glow,
    HyperField,
    InvertibleLinear,
    KernelDensity,
    Logit,
    OnChannels,
    PlanarField,
    PlanarTransform,
    PosteriorVelocity,
    RealNVP,
    SplineCoupling,
    StandardNormal,
    alternating_mask,
    bits_per_dim,
    checkerboard_mask,
    data_init,
    dequantize,
    evidence,
    fit_gaussian,
    flow_matching_loss,
    half_mask,
    importance,
    loo_log_likelihood,
    made_masks,
    optimal_pairs,
    penalized_nll,
    quantize,
    rational_quadratic,
    reverse_kl,
    select_bandwidth,
    stochastic_push,
    straightness,
    wasserstein2,
)
from nodes_tutorial.flows.natural import NaturalGradient
from nodes_tutorial.linalg import draw_probes
from nodes_tutorial.nets import MLP, TimeMLP

NAN, INF = math.nan, math.inf
WRONG = (TypeError, ValueError)


pytestmark = pytest.mark.usefixtures("as_at_the_users")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=rng(seed), dtype=dtype)


def cnf(**options):
    return Flow(StandardNormal(2), [CNF(TimeMLP(2, [4], generator=rng()), **options)])


DENSITIES = {
    "nice": lambda: NICE(2, 2, [4], generator=rng()),
    "realnvp": lambda: RealNVP(2, 2, [4], generator=rng()),
    "realnvp actnorm": lambda: RealNVP(2, 2, [4], generator=rng(), actnorm=True),
    "maf": lambda: MAF(2, 1, [4], generator=rng(), actnorm=True),
    "iaf": lambda: IAF(2, layers=1, hidden=[4], generator=rng()),
    "nsf": lambda: NSF(2, 2, [4], 4, generator=rng()),
    "planar": lambda: Flow(StandardNormal(2), [PlanarTransform(2, rng())]),
    "cnf": cnf,
    "no transform": lambda: Flow(StandardNormal(2), []),
    "on a gaussian": lambda: Flow(Gaussian(torch.zeros(2), torch.eye(2)), [Diagonal(2)]),
    "normal": lambda: StandardNormal(2),
    "gaussian": lambda: Gaussian(torch.zeros(2), torch.eye(2)),
    "kernel": lambda: KernelDensity(normal(20, 2)),
    "box": lambda: BoxTarget("U1"),
}
SAMPLERS = {name: make for name, make in DENSITIES.items() if name != "box"}
FLOWS = {name: make for name, make in DENSITIES.items() if isinstance(make(), Flow)}
NOT_POINTS = {
    "one column": torch.zeros(3, 1),
    "three columns": torch.zeros(3, 3),
    "a number": torch.zeros(()),
    "integers": torch.zeros(3, 2, dtype=torch.long),
    "an array": np.zeros((3, 2), dtype=np.float32),
    "a list": [[0.0, 0.0]],
    "None": None,
}


@pytest.mark.parametrize("wrong", NOT_POINTS)
@pytest.mark.parametrize("name", DENSITIES)
def test_every_density_wants_points_of_its_shape(name, wrong):
    density = DENSITIES[name]()
    with pytest.raises(WRONG, match=r"^[xz] must"):
        density.log_prob(NOT_POINTS[wrong])
    assert density.log_prob(torch.zeros(3, 2)).shape == (3,)


@pytest.mark.parametrize("name", [n for n in FLOWS if n != "no transform"])
def test_every_flow_wants_the_dtype_of_its_weights(name):
    with pytest.raises(TypeError, match=r"x must be torch.float32 on cpu, got torch.float64"):
        FLOWS[name]().log_prob(torch.zeros(3, 2, dtype=torch.float64))


def test_autocast_may_bring_another_dtype():
    flow = RealNVP(2, 2, [4], generator=rng())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert flow.log_prob(torch.zeros(3, 2)).isfinite().all()
        assert flow.log_prob(torch.zeros(3, 2, dtype=torch.bfloat16)).isfinite().all()


@pytest.mark.parametrize("name", DENSITIES)
def test_a_nan_stays_in_its_row(name):
    """A density does not look for NaN, which would wait for the device; nor does it hide one."""
    if name == "cnf":
        pytest.skip("the solver, which looks at its steps, raises")
    x = normal(3, 2)
    x[1, 0] = NAN
    assert DENSITIES[name]().log_prob(x).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("wrong", [(5,), 5.0, "5", None, True, -1])
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_wants_a_number_of_points(name, wrong):
    density = SAMPLERS[name]()
    for draw in (density.sample, density.rsample, density.rsample_and_log_prob):
        with pytest.raises(WRONG, match="n must be"):
            draw(wrong)
    assert density.sample(0).shape == (0, 2) or name == "cnf"


DRAWS = {
    **{name: lambda g, make=make: make().sample(3, g) for name, make in SAMPLERS.items()},
    "reverse_kl": lambda g: reverse_kl(StandardNormal(2), BoxTarget("U1"), 3, g),
    "dequantize": lambda g: dequantize(torch.zeros(3, dtype=torch.long), 4, g),
    "flow_matching_loss": lambda g: flow_matching_loss(lambda t, x: x, normal(3, 2), generator=g),
    "stochastic_push": lambda g: stochastic_push(
        lambda t, x: x, normal(3, 2), 1.0, steps=2, generator=g
    ),
    "draw_probes": lambda g: draw_probes(1, torch.zeros(2), generator=g),
    "MLP": lambda g: MLP([2, 2], generator=g),
    "RealNVP": lambda g: RealNVP(2, generator=g),
    "MAF": lambda g: MAF(2, generator=g),
    "NSF": lambda g: NSF(2, generator=g),
    "ContextField": lambda g: ContextField(2, 1, generator=g),
    "HyperField": lambda g: HyperField(2, 1, generator=g),
    "importance": lambda g: importance(
        lambda x: -x.square().sum(-1), StandardNormal(2), 3, generator=g
    ),
    "Glow": lambda g: Glow((1, 4, 4), 1, 1, 4, g),
    "PlanarField": lambda g: PlanarField(2, 3, generator=g),
    "PlanarTransform": lambda g: PlanarTransform(2, g),
    "InvertibleLinear": lambda g: InvertibleLinear(2, generator=g),
    "CNF": lambda g: CNF(lambda t, x: x, generator=g),
}


@pytest.mark.parametrize("name", DRAWS)
def test_what_is_random_wants_a_generator(name):
    for wrong in (0, "0", np.random.default_rng(0)):
        with pytest.raises(TypeError, match=r"generator must be a torch\.Generator or None"):
            DRAWS[name](wrong)
    DRAWS[name](rng())
    DRAWS[name](None)


BOUNDED = {
    "RealNVP": lambda c: RealNVP(2, bound=c),
    "MAF": lambda c: MAF(2, bound=c),
    "IAF": lambda c: IAF(2, bound=c),
    "NSF": lambda c: NSF(2, bound=c),
    "SplineCoupling": lambda c: SplineCoupling(half_mask(2), MLP([1, 8]), bound=c),
    "rational_quadratic": lambda c: rational_quadratic(torch.zeros(1), torch.zeros(1, 8), c),
    "Glow": lambda c: Glow((1, 4, 4), 1, 1, 4, bound=c),
    "AffineCoupling": lambda c: AffineCoupling(half_mask(2), MLP([1, 2]), bound=c),
    "AutoregressiveAffine": lambda c: AutoregressiveAffine(2, bound=c),
}


@pytest.mark.parametrize("wrong", [-1, 0, NAN, INF, None, "2"])
@pytest.mark.parametrize("name", BOUNDED)
def test_a_bound_is_positive(name, wrong):
    with pytest.raises(WRONG, match="bound must be a positive number"):
        BOUNDED[name](wrong)


EVENTS = {
    "ActNorm": lambda k: ActNorm(2, event_dims=k),
    "InvertibleLinear": lambda k: InvertibleLinear(2, event_dims=k),
    "Logit": lambda k: Logit(k),
    "AffineCoupling": lambda k: AffineCoupling(half_mask(2), MLP([1, 2]), event_dims=k),
}


@pytest.mark.parametrize("wrong", [0, -1, "a", 1.5, None])
@pytest.mark.parametrize("name", EVENTS)
def test_event_dims_are_axes(name, wrong):
    with pytest.raises(WRONG, match="event_dims must be"):
        EVENTS[name](wrong)


def once(flow, **weights):
    return lambda: penalized_nll(flow, torch.zeros(1, 2), weights)


WRONG_CALLS = {
    # what would be a wrong number
    "transforms of images on vectors": (lambda: Flow(StandardNormal(4), [Logit(3)]), "transforms"),
    "a chain of both": (lambda: Chain([ActNorm(2), ActNorm(2, event_dims=3)]), "transforms"),
    "an empty chain": (lambda: Chain([]), "transforms"),
    "diagonal alone": (lambda: Diagonal(2)(torch.zeros(3, 1)), "z must"),
    "diagonal back": (lambda: Diagonal(2).inverse(torch.zeros(3, 1)), "x must"),
    "actnorm alone": (lambda: ActNorm(2)(torch.zeros(3, 1)), "2 channels"),
    "actnorm back": (lambda: ActNorm(2).inverse(torch.zeros(3, 1)), "2 channels"),
    "quantize nan": (lambda: quantize(torch.tensor([0.5, NAN]), 4), "y must"),
    "quantize no levels": (lambda: quantize(torch.tensor([0.5]), 0), "levels"),
    "quantize integers": (lambda: quantize(torch.tensor([0]), 4), "y must"),
    "dequantize no levels": (lambda: dequantize(torch.zeros(0, dtype=torch.long), 0), "levels"),
    "dequantize numbers": (lambda: dequantize(torch.zeros(3), 4), "k must"),
    "bits of no dims": (lambda: bits_per_dim(torch.zeros(1), -1, 256), "dims"),
    "bits of no levels": (lambda: bits_per_dim(torch.zeros(1), 4, 0), "levels"),
    "half mask": (lambda: half_mask(4, 2), "parity"),
    "alternating mask": (lambda: alternating_mask(4, 2), "parity"),
    "alternating letter": (lambda: alternating_mask(4, "a"), "parity"),
    "checkerboard": (lambda: checkerboard_mask((1, 2, 2), -1), "parity"),
    "flat checkerboard": (lambda: checkerboard_mask((2, 2)), "shape"),
    "mask of nothing": (lambda: half_mask(0), "dim"),
    "made without units": (lambda: made_masks(3, [0]), "hidden"),
    "nan in data_init": (
        lambda: data_init(DENSITIES["realnvp actnorm"](), torch.tensor([[0.0, NAN], [1, 1]])),
        "x must be finite",
    ),
    "one point in data_init": (
        lambda: data_init(DENSITIES["realnvp actnorm"](), torch.zeros(1, 2)),
        "two points",
    ),
    "bandwidth 0": (lambda: loo_log_likelihood(normal(5, 1), torch.tensor([1.0, 0])), "bandwidths"),
    "bandwidth < 0": (lambda: loo_log_likelihood(normal(5, 1), torch.tensor([-1.0])), "bandwidths"),
    "bandwidth nan": (lambda: loo_log_likelihood(normal(5, 1), torch.tensor([NAN])), "bandwidths"),
    "one point left out": (lambda: loo_log_likelihood(normal(1, 1), torch.ones(1)), "x must"),
    "select of nan": (lambda: select_bandwidth(torch.full((9, 1), NAN)), "x must"),
    "kernel of width nan": (lambda: KernelDensity(normal(9, 2), NAN), "bandwidth"),
    "kernel of width None": (lambda: KernelDensity(normal(9, 2), None), "bandwidth"),
    "fit to integers": (lambda: fit_gaussian(torch.zeros(9, 2, dtype=torch.long)), "x must"),
    "fit to nan": (lambda: fit_gaussian(torch.full((9, 2), NAN)), "x must"),
    # a mean of nothing
    "matching nothing": (lambda: flow_matching_loss(lambda t, x: x, torch.zeros(0, 2)), "x1 must"),
    "penalties of nothing": (lambda: penalized_nll(cnf(), torch.zeros(0, 2), {}), "x must"),
    "natural step of nothing": (
        lambda: NaturalGradient(RealNVP(2, 2, [4])).step(torch.zeros(0, 2), 0.1),
        "x must",
    ),
    "straightness of nothing": (lambda: straightness(lambda t, x: x, torch.zeros(0, 2)), "x0 must"),
    "kl of nothing": (lambda: reverse_kl(StandardNormal(2), BoxTarget("U1"), 0), "n must"),
    "pairs of nothing": (lambda: optimal_pairs(torch.zeros(0, 2), torch.zeros(0, 2)), "x0 and x1"),
    "no axis": (lambda: wasserstein2(torch.tensor(0.0), torch.tensor(1.0)), "x0 and x1"),
    # conditional flows and weights
    "spline of 7": (lambda: rational_quadratic(torch.zeros(1), torch.zeros(1, 7)), "parameters"),
    "one bin": (lambda: NSF(2, bins=1), "bins"),
    "one feature": (lambda: NSF(1), "dim"),
    "a spline of nothing": (lambda: SplineCoupling(half_mask(2, 0) | True, MLP([2, 8])), "mask"),
    "a spline on nothing": (lambda: SplineCoupling(half_mask(1), MLP([2, 8])), "mask"),
    "context of images": (
        lambda: AffineCoupling(half_mask(2), MLP([1, 2]), event_dims=3, context=1),
        "context",
    ),
    "context -1": (lambda: RealNVP(2, context=-1), "context"),
    "context 0 of a field": (lambda: ContextField(2, 0), "context"),
    "field without layers": (lambda: ContextField(2, 1, []), "hidden"),
    "hyper without layers": (lambda: HyperField(2, 1, []), "hidden"),
    "masks of a context": (lambda: made_masks(2, [2], context=1.5), "context"),
    "contexts of two sizes": (
        lambda: Flow(
            StandardNormal(2), [*MAF(2, 1, context=1).transforms, *MAF(2, 1, context=2).transforms]
        ),
        "contexts of one size",
    ),
    "weights nan in evidence": (lambda: evidence(torch.tensor([0.0, NAN])), "log_weights"),
    "weights infinite": (lambda: evidence(torch.tensor([0.0, INF])), "log_weights"),
    "weights all zero": (lambda: evidence(torch.tensor([-INF, -INF])), "log_weights"),
    "one weight": (lambda: evidence(torch.tensor([0.0])), "log_weights"),
    "a weight without an axis": (lambda: evidence(torch.tensor(0.0)), "log_weights"),
    "one draw": (lambda: importance(lambda x: x[:, 0], StandardNormal(2), 1), "n must"),
    "joint of another shape": (
        lambda: importance(lambda x: x, StandardNormal(2), 3),
        "log_joint must",
    ),
    "context for a normal law": (
        lambda: importance(lambda x: x[:, 0], RealNVP(2, 2, [4]), 3, context=torch.zeros(1)),
        "context must be None",
    ),
    # factors and numbers
    "weights nan": (once(cnf(regularize=("kinetic",)), kinetic=NAN), r"weights\['kinetic'\]"),
    "weights None": (once(cnf(regularize=("kinetic",)), kinetic=None), r"weights\['kinetic'\]"),
    "damping nan": (lambda: NaturalGradient(RealNVP(2), damping=NAN), "damping"),
    "wall nan": (lambda: BoxTarget("U1", NAN), "wall"),
    "alpha nan": (lambda: Logit(1, NAN), "alpha"),
    # constructors
    "no centers": (lambda: PosteriorVelocity(torch.zeros(0, 2)), "centers"),
    "sd nan": (lambda: PosteriorVelocity(torch.zeros(1, 2), NAN), "sd"),
    "center weights": (
        lambda: PosteriorVelocity(torch.zeros(1, 2), weights=torch.tensor([INF])),
        "weights",
    ),
    "channels -1": (lambda: OnChannels(ActNorm(2, event_dims=3), -1), "channels"),
    "channels '3'": (lambda: OnChannels(ActNorm(2, event_dims=3), "3"), "channels"),
    "channels nan": (lambda: OnChannels(ActNorm(2, event_dims=3), NAN), "channels"),
    "channels of a vector map": (lambda: OnChannels(ActNorm(2), 2), "transform must"),
    "fewer channels": (
        lambda: OnChannels(ActNorm(2, event_dims=3), 2)(torch.zeros(1, 4, 4)),
        "at least 2 channels",
    ),
    "mean of two axes": (lambda: Gaussian(torch.zeros(2, 2), torch.eye(2)), "mean"),
    "mean nan": (lambda: Gaussian(torch.tensor([0.0, NAN]), torch.eye(2)), "mean"),
    "mean of another dtype": (
        lambda: Gaussian(torch.zeros(2).double(), torch.eye(2)),
        "covariance",
    ),
    "covariance nan": (lambda: Gaussian(torch.zeros(2), torch.full((2, 2), NAN)), "covariance"),
    "normal of integers": (lambda: StandardNormal(2, dtype=torch.int64), "dtype"),
    "normal of half an axis": (lambda: StandardNormal(1.5), "shape"),
    "layers '3'": (lambda: RealNVP(2, layers="3"), "layers"),
    "glow without levels": (lambda: Glow((1, 4, 4), levels=0), "levels"),
    "base no module": (lambda: Flow(object(), []), "base"),
    # a continuous flow complains when it is made
    "rtol": (lambda: cnf(rtol=-1.0), "rtol"),
    "atol": (lambda: cnf(atol=NAN), "atol"),
    "method": (lambda: cnf(method="nope"), "method"),
    "gradient": (lambda: cnf(gradient="x"), "gradient"),
    "options": (lambda: cnf(options={"steps": 3}), "options"),
    "probes": (lambda: cnf(trace="hutchinson", probes=0), "probes"),
    "t1 = 0": (lambda: cnf(t1=0.0), "t1"),
    "t1 = inf": (lambda: cnf(t1=INF), "t1"),
    "t1 with a gradient": (lambda: cnf(t1=nn.Parameter(torch.tensor(1.0))), "t1 must be"),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_argument_is_named(name):
    call, message = WRONG_CALLS[name]
    with pytest.raises(WRONG, match=message):
        call()


def test_one_bad_entry_among_good_ones_is_found():
    good = normal(6, 2)
    for bad in (NAN, INF):
        spoilt = good.clone()
        spoilt[4, 1] = bad
        for call in (optimal_pairs, wasserstein2):
            for pair in ((spoilt, good), (good, spoilt)):
                with pytest.raises(ValueError, match="must be finite"):
                    call(*pair)


def test_distance_of_integers_is_no_integer():
    x, y = torch.tensor([[0, 0]]), torch.tensor([[1, 1]])
    assert abs(wasserstein2(x, y) - math.sqrt(2)) < 1e-6


def test_optimal_pairs_leave_the_data_in_their_rows():
    """A field may know a label for each row of the data: it is the noise that changes places."""
    x1, seen = normal(64, 2, dtype=torch.float64), []
    label = x1.clone()

    def field(t, x):
        seen.append((t, x))
        return (label - x) / (1 - t)

    loss = flow_matching_loss(field, x1, coupling="ot", generator=rng(1))
    assert loss < 1e-20
    t, x = seen[0]
    x0 = (x - t * x1) / (1 - t)
    noise = torch.randn(x1.shape, generator=rng(1), dtype=torch.float64)
    assert (x0 - noise[optimal_pairs(x1, noise)]).abs().max() < 1e-9
    assert (x0 - noise).abs().max() > 0.1  # they did change places
    wrong = label[optimal_pairs(noise, x1)]
    assert (wrong - label).abs().max() > 0.1


def test_autoregressive_layers_take_the_entries_in_turn():
    flow = MAF(3, 5, [8], "tanh", rng())
    for i, layer in enumerate(flow.transforms):
        jacobian = torch.autograd.functional.jacobian(lambda z, f=layer: f(z)[0], normal(3))
        above, below = jacobian.triu(1).abs().max(), jacobian.tril(-1).abs().max()
        assert (above == 0, below == 0) == ((True, False) if i % 2 == 0 else (False, True))


def test_one_layer_is_a_flow():
    assert len(MAF(3, 1).transforms) == len(IAF(3, layers=1).transforms) == 1
    with pytest.raises(ValueError, match="layers must be at least 1"):
        MAF(3, 0)


def test_normal_law_of_a_number():
    x = torch.tensor([0.0, 0.5, -3.0], dtype=torch.float64)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(x)
    assert (StandardNormal(()).log_prob(x) - wanted).abs().max() < 1e-12


def test_estimated_and_exact_flow_go_one_way():
    """The field has no rule of its own for tangents, so reverse mode gives value and products."""
    x = normal(5, 2, dtype=torch.float64)
    ends = [CNF(lambda t, x: torch.sin(x) - t, kind)(x) for kind in ("exact", "hutchinson")]
    assert (ends[0][0] - ends[1][0]).abs().max() < 1e-4
    assert (ends[0][0] - x).abs().max() > 0.1
    assert (ends[0][1] - ends[1][1]).abs().max() < 1e-4  # a diagonal Jacobian: no variance
