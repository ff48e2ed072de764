"""The structural graph between factors: cross-channel edges, unoriented at first, acyclic in the end.

Edges inside a channel are left out because that channel's decoder would absorb them.  Both directions of
each pair start out free, since a graph that is oriented from the first step often settles for a reversed edge;
:meth:`StructuralGraph.orient` then fixes an acyclic order for good.
"""

from __future__ import annotations

import pyro
import torch
from torch import Tensor, nn


class StructuralGraph(nn.Module):
    """Which edges ``B[source, target]`` there may be, and in which order the factors are evaluated.

    Factors are ordered platform first; `names` has their site names.
    """

    allowed: Tensor  #: (K, K), 1 where an edge source -> target may be
    order: Tensor  #: (K,), the order of evaluation once oriented
    oriented: Tensor  #: bool

    #: Targets with their sources, in the order of evaluation; None until oriented.  What the buffers say, in Python,
    #: so that a step on a GPU does not wait for them.
    plan: list[tuple[int, list[int]]] | None = None

    def __init__(self, n_platform: int, n_preference: int) -> None:
        super().__init__()
        self.names = [f"platform_{k + 1}" for k in range(n_platform)]
        self.names += [f"preference_{k + 1}" for k in range(n_preference)]
        n_factors = n_platform + n_preference
        preference = torch.arange(n_factors) >= n_platform
        self.register_buffer("allowed", (preference[:, None] != preference[None, :]).float())
        self.register_buffer("order", torch.arange(n_factors))
        self.register_buffer("oriented", torch.tensor(False))
        self.register_load_state_dict_post_hook(lambda graph, _: graph.make_plan())

    def make_plan(self) -> None:
        """Make `plan` of the buffers."""
        if self.oriented:
            sources = [column.nonzero().flatten().tolist() for column in self.allowed.T]
            self.plan = [(target, sources[target]) for target in self.order.tolist()]

    def inverse(self, edges: Tensor) -> Tensor:
        """``(I - B')^-1`` from ``(..., K, K)`` weights: the total effect of each drive on each factor."""
        identity = torch.eye(len(self.names), device=edges.device)
        return torch.linalg.inv_ex(identity - (edges * self.allowed).mT)[0]

    def factors(self, edges: Tensor, drive: Tensor) -> Tensor:
        """Factors ``z`` that solve ``z = B'z + drive``, each a deterministic site, stacked ``(..., N, K)``.

        ``pyro.do`` on a factor reaches its descendants only when the graph is oriented: before, the factors are
        solved for jointly.
        """
        if self.plan is None:
            z = (self.inverse(edges) @ drive.unsqueeze(-1)).squeeze(-1)
            sites = [pyro.deterministic(name, z[..., k], event_dim=0) for k, name in enumerate(self.names)]
            return torch.stack(sites, -1)
        z_of: dict[int, Tensor] = {}
        for target, sources in self.plan:
            value = drive[..., target]
            for source in sources:
                value = value + edges[..., source, target] * z_of[source]
            z_of[target] = pyro.deterministic(self.names[target], value, event_dim=0)
        return torch.stack(torch.broadcast_tensors(*[z_of[k] for k in range(len(self.names))]), -1)

    def orient(self, weights: Tensor) -> None:
        """Fix an acyclic orientation from weights ``(K, K)``: the strongest edges enter first.

        An edge that would close a cycle with stronger ones is forbidden.  In the result every cross-channel pair
        has exactly one direction.
        """
        n = len(weights)
        reaches = torch.eye(n, dtype=torch.bool)  # reaches[j, k]: a path j -> k, or j = k
        allowed = torch.zeros(n, n)
        strength = weights.detach().cpu().abs() * self.allowed.cpu()
        for edge in strength.flatten().argsort(descending=True).tolist():
            source, target = divmod(edge, n)
            if self.allowed[source, target] and not reaches[target, source]:
                allowed[source, target] = 1
                reaches |= reaches[:, source : source + 1] & reaches[target : target + 1, :]
        self.allowed.copy_(allowed)
        # A factor has more ancestors than any of its ancestors has.
        self.order.copy_(reaches.sum(0).argsort(stable=True))
        self.oriented.fill_(True)
        self.make_plan()
