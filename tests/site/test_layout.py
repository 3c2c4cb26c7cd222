"""The trees have the names of the table of contents, and public names stay importable."""

import ast
import importlib
import importlib.util
import re

import pytest

from tools.project import ROOT, chapters

PACKAGE = ROOT / "nodes_tutorial"
FLAT = 28  # modules up to which a part needs no folders
# what users and chapters import, by the dotted name below nodes_tutorial
NAMES = """
ode.residual.ResidualNet ode.invertible.invert_layer nets.MLP nets.TimeMLP
ode.stable.AntisymmetricNet ode.stable.LeapfrogNet ode.stable.VerletNet
ode.stability.smoothness_penalty ode.stability.prolong
ode.multilevel.Objective ode.multilevel.train_blocks ode.multilevel.train_multilevel
ode.symplectic.leapfrog ode.symplectic.verlet
ode.odeint ode.odeint_adjoint ode.solve ode.Solution ode.SolverError ode.METHODS ode.Tableau
ode.nets.ODEBlock ode.nets.ODENet ode.nets.ResNet ode.nets.RKNet
ode.ODEBlock ode.ODENet ode.ResNet ode.RKNet ode.ResidualNet
ode.odeint_event ode.events.find_event ode.augmented.AugmentedODE
ode.coupled.CoupledODE ode.gradient_modes.PeakMemory
ode.latent.LatentODE ode.latent.ODERNN data.timeseries.spirals
ode.latent.train ode.latent.line ode.irregular.DeltaRNN ode.irregular.RNNVAE ode.irregular.reported
ode.step_control.stability_boundary ode.step_control.linear_polynomials
ode.stiffness.odeint_stiff ode.stiffness.solve_stiff ode.stiffness.stability_function
ode.goku.GOKUNet ode.known_unknowns.GOKUNet
ode.misspecified.PartlyKnown ode.misspecified.cardiovascular_sequences
flows.fit_gaussian flows.KernelDensity flows.Flow
flows.planar.PlanarTransform flows.coupling.NICE flows.coupling.RealNVP flows.glow.Glow
flows.autoregressive.MAF flows.autoregressive.IAF
flows.spline.NSF flows.spline.SplineCoupling flows.spline.rational_quadratic
flows.ContextField flows.HyperField flows.importance flows.evidence
flows.continuous.CNF flows.trace.exact flows.trace.hutchinson
flows.matching.flow_matching_loss linalg.hvp training.fit
flows.diffusion.score_from_velocity flows.diffusion.stochastic_push
implicit.imaml implicit.proximal_point implicit.through_anchor implicit.moreau_envelope
bayes.networks.BayesianMLP bayes.networks.bbb_loss bayes.BayesianMLP bayes.bbb_loss
bayes.sgld.sgld bayes.ensembles.Ensemble bayes.Ensemble bayes.DropoutMLP
bayes.laplace.laplace bayes.LastLayerLaplace bayes.calibration.ece bayes.calibration.nll
bayes.calibration.brier bayes.calibration.auroc bayes.calibration.temperature_scale
bayes.elbo bayes.evidence_prior_sampling bayes.MeanFieldGaussian
bayes.hmc bayes.r_hat bayes.effective_sample_size bayes.HMCKernel
bayes.vcd_gradient bayes.vcd.vcd_gradient
bayes.VAE bayes.vae.VAE bayes.linear_vae.best_linear_vae data.shapes.ellipses
bayes.evidence.cumulative_cv bayes.cumulative_cv bayes.generalized.gibbs_posterior
flows.matching.flow_matching_loss training.fit
linalg.hvp linalg.cg linalg.neumann linalg.lanczos linalg.ggn
implicit.hypergradient implicit.root implicit.argmin implicit.fixed_point implicit.newton_cg
generalization.fisher_matrix generalization.empirical_fisher generalization.gauss_newton
generalization.modified_flow generalization.modified_loss generalization.minibatch_descent
generalization.ntk.empirical_ntk generalization.relu_ntk generalization.linearize
generalization.equivalent_schedule generalization.heavy_ball generalization.rescale
generalization.scale_invariance.radial_cosines generalization.stationary_factor
generalization.information.exact_generalization generalization.classifier_information
invariance.DeepSets invariance.sets.DeepSets invariance.Equivariant invariance.pool
invariance.irm_penalty invariance.rex_penalty invariance.icp data.environments.two_bit
invariance.adjust invariance.partial_models.adjust invariance.episode_law invariance.expectimax
invariance.curvature invariance.sfa invariance.oriented_energy
meta.maml meta.adapt meta.predict meta.reptile meta.unrolled_loss
meta.bayesian_maml meta.svgd meta.chaser_loss
meta.ProtoNet meta.prototypes.ProtoNet meta.class_means meta.linear_head
meta.transfer.Baseline meta.Baseline meta.interval meta.load_encoder data.runs.one_shot_runs
meta.HyperMAML meta.hypermaml.HyperMAML meta.hypernetworks.SupportRows meta.WarmUp
meta.BayesianHyperMAML meta.bayesian_hypermaml.BayesianHyperMAML meta.DKT meta.dkt.DKT
meta.posteriors.FlowWeights meta.GaussianWeights meta.averaged_loss
""".split()


def modules(part: str) -> list[str]:
    return [path.stem for path in (PACKAGE / part).glob("*.py") if path.stem != "__init__"]


@pytest.mark.parametrize("chapter", chapters(), ids=lambda chapter: chapter.slug)
def test_every_chapter_has_its_module_and_its_tests(chapter):
    name = chapter.slug.split("/")[1]
    tests = ROOT / "tests" / chapter.part
    assert (tests / f"test_{name}.py").is_file() or (tests / name / f"test_{name}.py").is_file()
    folders = [
        path for path in (PACKAGE / chapter.part).iterdir() if (path / "__init__.py").exists()
    ]
    if folders:
        module = PACKAGE / chapter.part / name
        assert module.with_suffix(".py").is_file() or (module / "__init__.py").is_file()
    else:
        assert len(modules(chapter.part)) <= FLAT
        text = importlib.import_module(f"nodes_tutorial.{chapter.part}").__doc__
        (line,) = re.findall(rf"^{name}: (.*)$", text, re.M)
        listed = re.findall(r"``(\w+)``", line)
        assert listed and set(listed) <= set(modules(chapter.part))


def test_a_part_with_folders_has_one_for_each_chapter_and_little_else():
    names = {chapter.slug.split("/")[1] for chapter in chapters() if chapter.part == "ode"}
    folders = {path.parent.name for path in (PACKAGE / "ode").glob("*/__init__.py")}
    assert folders <= names
    front_door = {"odeint", "convention", "backward"}  # ARCHITECTURE.md says what each is
    assert set(modules("ode")) - names == front_door


@pytest.mark.parametrize("name", NAMES)
def test_public_names_are_importable(name):
    """As an attribute, and by `from … import …` as a reader would write it."""
    module, _, last = f"nodes_tutorial.{name}".rpartition(".")
    assert hasattr(importlib.import_module(module), last)


def test_no_function_hides_a_module_of_its_name():
    """`ode.odeint` is the one exception: the module is the front door of the function."""
    hidden = set()
    for path in PACKAGE.rglob("*.py"):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        parent, _, last = dotted.rpartition(".")
        if last in ("__init__", "__main__"):
            continue
        found = getattr(importlib.import_module(parent), last, None)
        if found is not None and not hasattr(found, "__path__") and not hasattr(found, "__file__"):
            hidden.add(dotted)
    assert hidden == {"nodes_tutorial.ode.odeint"}


def test_benchmarks_name_their_siblings_by_the_package():
    """`python -m benchmarks.ode` does not find a bare `import peers`."""
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    siblings = {path.stem for path in files}
    for path in files:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) else []
            assert not siblings & set(names), path.name
