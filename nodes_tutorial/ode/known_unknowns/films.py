"""What films of pendulums are learned with: an emission and a loop over batches."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nodes_tutorial.nets.stack import Stack
from nodes_tutorial.training import fit

__all__ = ["FromAngle", "fit_batches"]


class FromAngle(nn.Module):
    """Emission: a picture of the first entry of the state. Films do not show velocities.

    Args:
        generators: sources of the initial weights, one for each of the networks side by side.
        pixels: entries of a picture.

    Chapter: def-unknowns-model

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import FromAngle
    >>> emission = FromAngle([torch.Generator().manual_seed(0)])
    >>> emission(torch.zeros(1, 5, 2)).shape
    torch.Size([1, 5, 256])
    """

    def __init__(self, generators: Sequence[torch.Generator], pixels: int = 256) -> None:
        super().__init__()
        self.net = Stack([1, 32, pixels], generators)

    def forward(
        self, z: Float[Tensor, "copies rows state"]
    ) -> Float[Tensor, "copies rows observed"]:
        """The picture of each state."""
        return self.net(3 * z[..., :1])


def fit_batches(
    net: nn.Module,
    loss: Callable[[Int[Tensor, " batch"], torch.Generator], Tensor],
    rows: int,
    generator: torch.Generator,
    *,
    steps: int = 400,
    batch: int = 32,
    rate: float = 1e-2,
) -> None:
    """Train by Adam with a rate that rises and falls once, on batches of rows of a data set.

    Args:
        net: the module, or several networks side by side; it is changed in place.
        loss: takes the numbers of the rows of a batch and the generator, and returns a loss, or
            one for each network. The networks share nothing: each gets its own gradient.
        rows: size of the data set.
        generator: source of the batches and of what ``loss`` draws.
        steps: number of updates.
        batch: rows of a batch.
        rate: the largest rate of the cycle.

    Chapter: thm-unknowns-elbo

    >>> import torch
    >>> from nodes_tutorial.ode.known_unknowns import fit_batches
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> x = torch.linspace(0, 1, 50)[:, None]
    >>> def loss(rows, draws):
    ...     return (line(x[rows]) - 3 * x[rows]).square().mean()
    >>> fit_batches(line, loss, 50, torch.Generator().manual_seed(0), steps=300, rate=0.1)
    >>> f"{line.weight.item():.1f}"
    '3.0'
    """
    adam = torch.optim.Adam(net.parameters(), rate, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, rate, total_steps=steps)

    def step(i: int) -> Tensor:
        adam.zero_grad()
        drawn = torch.randint(rows, (batch,), generator=generator)
        value = loss(drawn, generator).sum()
        value.backward()
        adam.step()
        schedule.step()
        return value

    fit(step, steps=steps, progress=False)
