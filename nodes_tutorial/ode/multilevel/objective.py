"""What the training of a stable network minimizes, and what one run of it leaves behind."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from nodes_tutorial.ode.multilevel.newton import Classifier
from nodes_tutorial.ode.stability.base import StableNet
from nodes_tutorial.ode.stability.depth import smoothness_penalty, tikhonov_penalty

__all__ = ["Level", "Objective", "new_classifier"]


@dataclass
class Objective:
    r"""Cross-entropy with the regularizers of the weights and of the classifier.

    .. math:: \frac1s \sum_i S(y_L^{(i)} W + \mu, c_i) + \alpha\,
              \Bigl(\frac1{2h} \sum_j \|w_j - w_{j-1}\|^2
              + \frac{\beta h}2 \sum_j \|w_j\|^2\Bigr)
              + \frac{\alpha_c}2 (\|W\|^2 + \|\mu\|^2)

    Args:
        x: training inputs, one row a point.
        labels: class of each point, an integer from 0.
        alpha: weight of the regularizers of the propagation weights.
        beta: weight of Tikhonov's regularizer, as a multiple of ``alpha``.
        smooth: weight of the smoothness regularizer, as a multiple of ``alpha``; 0 switches it off.
        alpha_c: weight of the regularizer of the classifier.
    """

    x: Tensor
    labels: Tensor
    alpha: float = 1e-3
    beta: float = 1e-2
    smooth: float = 1.0
    alpha_c: float = 1e-3

    def penalty(self, weights: Sequence[Tensor], h: float) -> Float[Tensor, ""]:
        """The regularizers of the propagation weights."""
        rough, large = smoothness_penalty(weights, h), tikhonov_penalty(weights, h)
        return self.alpha * (self.smooth * rough + self.beta * large)

    def curvature(self, layers: int, h: float, like: Tensor) -> Float[Tensor, "layers layers"]:
        """The Hessian of ``penalty``, the same for each entry of the weights."""
        D = torch.eye(layers, dtype=like.dtype, device=like.device).diff(dim=0)
        identity = torch.eye(layers, dtype=like.dtype, device=like.device)
        return self.alpha * (self.smooth / h * (D.mT @ D) + self.beta * h * identity)

    def value(self, y: Tensor, weights: Sequence[Tensor], h: float, c: Classifier) -> Tensor:
        """The value of the objective, from the last states ``y``."""
        fit = F.cross_entropy(c.logits(y), self.labels)
        large = c.W.square().sum() + c.mu.square().sum()
        return fit + self.penalty(weights, h) + self.alpha_c / 2 * large


@dataclass
class Level:
    """What happened at one depth.

    Args:
        net: the trained network.
        classifier: the trained classifier on its last states.
        history: the objective before training and after each iteration.
        seconds: duration of the training.
        products: sweeps of the linearized network, tangent and adjoint.
    """

    net: StableNet
    classifier: Classifier
    history: list[float] = field(default_factory=list)
    seconds: float = 0.0
    products: int = 0

    @property
    def iterations(self) -> int:
        """Number of iterations."""
        return len(self.history) - 1

    @torch.no_grad()
    def accuracy(self, x: Float[Tensor, "batch dim"], labels: Int[Tensor, " batch"]) -> float:
        """Share of points put into the right class."""
        decided = self.classifier.logits(self.net(x)).argmax(1)
        return (decided == labels).double().mean().item()


def new_classifier(objective: Objective) -> Classifier:
    """Return a classifier with zero weights, of the sizes that the objective's data ask for.

    Args:
        objective: the objective whose inputs and labels give the sizes.
    """
    classes = int(objective.labels.max()) + 1
    x = objective.x
    return Classifier(x.new_zeros(x.shape[1], classes), x.new_zeros(classes))
