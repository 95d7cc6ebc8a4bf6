"""Definitions of the model's output as a distribution P_Y, and KL divergences between outputs.

See docs/method.md, “Output distribution”.

SAM's output is a map of mask logits for each prompt, so P_Y needs a definition:

- `bernoulli`: each pixel is a Bernoulli variable with p = sigmoid(logit); the KL divergence is averaged over pixels.
- `spatial`: sigmoid(logit), divided by its sum over the map, is one distribution over pixels.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def bernoulli_kl(reference: Tensor, other: Tensor) -> Tensor:
    """KL(P ‖ Q) in nats of Bernoulli pixels, averaged over pixels and prompts.

    With p = sigmoid(z): p·(z − z') − softplus(z) + softplus(z').

    Args:
        reference: logits of P, [P, …, h, w].
        other: logits of Q, [N, P, …, h, w].

    Returns:
        [N], float64.
    """
    z, w = reference.double(), other.double()
    divergence = torch.sigmoid(z) * (z - w) - functional.softplus(z) + functional.softplus(w)
    return divergence.clamp_(min=0).flatten(1).mean(1)


def spatial_kl(reference: Tensor, other: Tensor) -> Tensor:
    """KL(P ‖ Q) in nats of distributions over the pixels of each mask, averaged over prompts; shapes as above."""
    log_p, log_q = _log_spatial(reference), _log_spatial(other)
    divergence = (log_p.exp() * (log_p - log_q)).sum(-1)
    return divergence.clamp_(min=0).flatten(1).mean(1)


def _log_spatial(logits: Tensor) -> Tensor:
    log_mass = functional.logsigmoid(logits.double()).flatten(-2)
    return log_mass - log_mass.logsumexp(-1, keepdim=True)


OUTPUTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bernoulli": bernoulli_kl, "spatial": spatial_kl}
