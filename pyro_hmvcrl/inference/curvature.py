"""The curvature: the information that the model expects of its users, with the prior's precision, and its inverse.

It is the sum over logs that the model makes of the outer products of their scores.  Two forms of it:

:class:`Dense`
    One matrix of all parameters, where so many users can be made that it is as good as exact.
:class:`Blocks`
    For many categories, where there are more parameters than users: a block for each category, and few directions in
    which categories are tied to one another and to the structural coefficients.  Its memory is linear in the
    categories.

**Why blocks do.**  Nearly all parameters belong to one category, and given a user's factors each category's events tell
of its own parameters only, as a regression does whose information is known exactly
(:func:`~pyro_hmvcrl.inference.regressions.information_by_category`).  Scores of made users would give it with the
chance of a category's few events, and steps that are too long by half where it comes out small.  What ties them
changes smoothly with the few factors (:func:`~pyro_hmvcrl.inference.scores.user_unknowns`), so it lies in few
directions.  These are found first, as principal directions of the ties in units of the blocks; a direction in which all
categories move alike belongs to them, as shares do not see it.  Then the curvature **within** them, and with the
structural coefficients, is what made users' scores have there: a small matrix, which a few thousand users determine
however many parameters there are.  Across the others the blocks stand alone, as they would be if nothing tied
categories::

    H^-1 = blocks^-1 + Z (T^-1 - 1) Z'          Z' blocks Z = 1,   T = Z' H Z

The outer products of all users' scores would not do: with fewer users than parameters they are mostly chance, which
no shrinking mends, as the directions that matter are those of **little** information (Marchenko & Pastur 1967).

Measured at 12 and 24 categories against a matrix from 9,000 to 15,000 made users: effects' standard deviations within
some 3 percent, which is the chance of the made users; `alpha`, `a` and `b` by themselves up to a tenth too narrow.

The inverse of a sum over m made users is too large by m / (m - k), k being the parameters that they determine: the
mean of an inverse Wishart matrix.  It is made up for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_hmvcrl.guide.guide import Guide
from pyro_hmvcrl.inference.processes import of_first, total
from pyro_hmvcrl.inference.regressions import information_by_category, places
from pyro_hmvcrl.inference.scores import Values, scores_of, unknowns_of
from pyro_hmvcrl.story.logs import Cohort

MADE_A_PARAMETER = 12  #: users whose logs the model makes for its curvature
MADE_A_DIRECTION = 24  #: the same for each direction
MOST_MADE = 12_000  #: of them, for a matrix of all parameters
MOST_COPIES = 8  #: of each user, which do where users are few
TIED = 128  #: users of whom it is asked what ties categories
DIRECTIONS = 300  #: in which they may be tied
VERY_MANY = 200_000  #: parameters, of which memory allows less
TIED_OF_VERY_MANY, DIRECTIONS_OF_VERY_MANY = 32, 100
FEWEST_LEFT = 0.25  #: the least that finite sums are made up for by


@dataclass(frozen=True)
class Curvature:
    """What :class:`Dense` and :class:`Blocks` have in common, of all parameters in their order."""

    diagonal: Tensor  #: (parameters,)
    determined: float  #: number of parameters that the users determine rather than the prior
    tied: float  #: k, as many of them as are not a single category's own
    left: float  #: 1 - k / m, by which an inverse is to be multiplied

    def solve(self, pull: Tensor) -> Tensor:
        """The inverse times a pull ``(parameters,)``: where it moves the parameters to."""
        return self._inverse_times(pull, self.left)

    def spread(self, pulls: Tensor) -> Tensor:
        """The same of random pulls ``(parameters, n)``, of which the spread is to be right, rather than the mean."""
        return self._inverse_times(pulls, self.left**1.5)

    def variance(self, of_pull: Tensor) -> Tensor:
        """Variances ``(parameters,)`` of :meth:`spread` of independent pulls with these variances."""
        raise NotImplementedError

    def _inverse_times(self, pulls: Tensor, left: float) -> Tensor:
        raise NotImplementedError


@dataclass(frozen=True)
class Dense(Curvature):
    """A matrix of all parameters."""

    inverse: Tensor  #: (parameters, parameters)

    def variance(self, of_pull: Tensor) -> Tensor:
        return self.left**3 * (self.inverse**2 @ of_pull)

    def _inverse_times(self, pulls: Tensor, left: float) -> Tensor:
        return left * (self.inverse @ pulls)


@dataclass(frozen=True)
class Blocks(Curvature):
    """A block for each category, and directions in which they are tied."""

    at: Tensor  #: (C, q), which parameters the blocks are of
    blocks: Tensor  #: (C, q, q), inverses
    basis: Tensor  #: Z (parameters, structural coefficients + directions)
    within: Tensor  #: T^-1

    def inverse_diagonal(self) -> Tensor:
        """Of the inverse, ``(parameters,)``."""
        found = ((self.basis @ self._middle(self.left)) * self.basis).sum(1)
        found[self.at] += self.blocks.diagonal(dim1=1, dim2=2)
        return found

    def variance(self, of_pull: Tensor) -> Tensor:
        z, middle = self.basis, self._middle(self.left**1.5)
        weighted = of_pull[:, None] * z
        both = 2 * self._blocks_times(weighted) + z @ (middle @ (z.T @ weighted))
        found = ((both @ middle) * z).sum(1)
        found[self.at] += (self.blocks**2 @ of_pull[self.at][..., None])[..., 0]
        return found

    def _inverse_times(self, pulls: Tensor, left: float) -> Tensor:
        return self._blocks_times(pulls) + self.basis @ (self._middle(left) @ (self.basis.T @ pulls))

    def _middle(self, left: float) -> Tensor:
        """``T^-1 - 1``; of structural coefficients, which have no block, without the 1."""
        middle = left * self.within
        n_structural = len(self.diagonal) - self.at.numel()
        middle.diagonal()[n_structural:].sub_(1)
        return middle

    def _blocks_times(self, pulls: Tensor) -> Tensor:
        found = torch.zeros_like(pulls)
        of_categories = pulls[self.at].reshape(*self.at.shape, -1)
        found[self.at] = (self.blocks @ of_categories).view(*self.at.shape, *pulls.shape[1:])
        return found


def curvature(
    guide: Guide,
    values: Values,
    users: Cohort,
    exposure_covariates: Tensor,
    prior: Tensor,
    seed: int,
    progress: bool = False,
) -> Curvature:
    """The curvature at `values`, with the prior's precision ``(parameters,)``: of all parameters, or in blocks.

    Raises
    ------
    FloatingPointError
        If the scores are not finite.
    """
    question = _Question(guide, values, users, exposure_covariates, prior, seed, progress)
    needed = MADE_A_PARAMETER * len(prior)
    return _dense(question, needed) if needed <= MOST_MADE else _blocks(question)


@dataclass(frozen=True)
class _Question:
    """Of whom a curvature is asked, and where."""

    guide: Guide
    values: Values
    users: Cohort
    exposure_covariates: Tensor
    prior: Tensor
    seed: int
    progress: bool

    def made(self, rows: Tensor) -> Iterator[Tensor]:
        """Scores of users at these rows, of logs that the model makes."""
        asked = self.guide, self.values, self.users, self.exposure_covariates
        return scores_of(*asked, rows, self.seed, made=True, progress=self.progress)


def _dense(q: _Question, needed: int) -> Dense:
    copies = min(math.ceil(needed / q.users.n_users), MOST_COPIES)
    n, m = len(q.prior), copies * q.users.n_users
    curvature = torch.zeros(n, n, dtype=torch.double)
    for scores in q.made(torch.arange(q.users.n_users).repeat(copies)):
        curvature += scores.double().T @ scores.double()
    curvature = total(curvature) / copies
    curvature.diagonal().add_(q.prior)
    inverse = torch.cholesky_inverse(_cholesky(curvature))
    determined = float(n - inverse.diagonal() @ q.prior)
    left = max(1 - determined / m, FEWEST_LEFT)
    return Dense(curvature.diagonal().clone(), determined, determined, left, inverse)


def _blocks(q: _Question) -> Blocks:
    structural, at, _ = places(q.values)
    blocks = information_by_category(q.guide, q.values, q.users, q.seed) + torch.diag_embed(q.prior[at])
    basis = _basis(q, structural, at, blocks)
    rows = _dealt(q, MADE_A_DIRECTION * basis.shape[1])
    diagonal, within = _sums(q, rows, basis)
    of_prior = basis.T @ (q.prior[:, None] * basis)
    share = q.users.n_users / len(rows)
    inverses, inverse = (torch.cholesky_inverse(_cholesky(m)) for m in (blocks, share * within + of_prior))
    tied = len(within) - float((inverse * of_prior).sum())
    left = max(1 - tied / len(rows), FEWEST_LEFT)
    found = Blocks(share * diagonal + q.prior, 0.0, tied, left, at, inverses, basis, inverse)
    return replace(found, determined=float(len(q.prior) - found.inverse_diagonal() @ q.prior))


def _dealt(q: _Question, n: int) -> Tensor:
    """`n` of the users in random order; of fewer users, all of them again and again."""
    generator = torch.Generator().manual_seed(q.seed + n)
    rounds = math.ceil(n / q.users.n_users)
    return torch.cat([torch.randperm(q.users.n_users, generator=generator) for _ in range(rounds)])[:n]


def _sums(q: _Question, rows: Tensor, basis: Tensor) -> tuple[Tensor, Tensor]:
    """Of made users' scores: the sum of squares ``(parameters,)``, and of outer products along the basis."""
    squares = torch.zeros(len(basis), dtype=torch.double)
    within = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.double)
    single = basis.float()
    for scores in q.made(rows):
        squares += scores.double().square().sum(0)
        along = (scores @ single).double()
        within += along.T @ along
    return total(squares), total(within)


def _basis(q: _Question, structural: Tensor, at: Tensor, blocks: Tensor) -> Tensor:
    """Structural coefficients, and directions in which categories are tied, ``(parameters, n)``."""
    very_many = len(q.prior) > VERY_MANY
    n_users = TIED_OF_VERY_MANY if very_many else TIED
    n_directions = DIRECTIONS_OF_VERY_MANY if very_many else DIRECTIONS
    asked = q.guide, q.values, q.users, q.exposure_covariates, _dealt(q, n_users), q.seed
    by_category = torch.cat([some[..., at] for some in unknowns_of(*asked)])
    # (C, users, unknowns, q)
    by_category = ((q.users.n_users / n_users) ** 0.5 * by_category).permute(2, 0, 1, 3)

    root = _cholesky(blocks)
    inverse = torch.linalg.inv(root)
    ties = (by_category.flatten(1, 2) @ inverse.mT.float()).transpose(0, 1).flatten(1)
    del by_category
    _, vectors = torch.linalg.eigh((ties @ ties.T).double())
    strongest = ties.T @ vectors[:, -n_directions:].float()
    del ties
    alike = root.mT.reshape(at.numel(), -1)  # the same in every category
    directions = torch.linalg.qr(torch.cat([alike, strongest.double()], 1)).Q
    basis = torch.zeros(len(q.prior), len(structural) + directions.shape[1], dtype=torch.double)
    basis[structural, torch.arange(len(structural))] = 1
    basis[at.flatten(), len(structural) :] = (inverse.mT @ directions.view(*at.shape, -1)).flatten(0, 1)
    return of_first(basis)


def _cholesky(matrix: Tensor) -> Tensor:
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():
        raise FloatingPointError("the users' scores are not finite; look for extreme covariates in users")
    return factor
