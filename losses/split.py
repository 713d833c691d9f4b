"""The diagonal of the product of two views and the sum of squares off it, by the smaller of two kinds of matrices.

For x, y (N, D) and C = x^T y (D, D): ||C||^2 = <x x^T, y y^T>, the sum of all products of the elements of two (N, N)
matrices, and diag C = sum_n x_n y_n. So where there are fewer rows than features, nothing as large as D x D is needed.
The same for the samples' S = x y^T (N, N), by x^T x and y^T y (D, D). docs/losses.md has costs and precision.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .inputs import at_least_float32
from .matrices import split_diagonal, sum_of_squares
from .products import dot, inner, symmetric
from .ranks import ALONE, Ranks
from .standard import Standard, plain_standard
from .twice import differentiable_again

# The Gram form is taken where its matrices are smaller than this, as a part of the product's size. By time alone it
# could be 0.9. But ||C||^2 - sum diag^2 cancels. C has the rank of the Gram matrices, at most that part of its size:
# while its diagonal is even, near the optimum above all, ||C||^2 >= sum diag^2 / part, so two bits are lost at most.
GRAM_BELOW = 0.75


class Form(NamedTuple):
    """Which product, of what, and how it is computed; see `split`."""

    of: Literal["features", "samples"]
    eps: float | None = None
    ranks: Ranks = ALONE
    gram: bool = False

    @property
    def by_rows(self) -> bool:
        """True where matrices are (n, N), False where they are (D, D); see `_Split`."""
        return self.gram == (self.of == "features")

    def chosen(self, z: Tensor) -> Form:
        """Returns this with the faster of the two forms for `z` (n, D)."""
        num_rows, num_features = len(z) * self.ranks.size, z.shape[1]
        size, other = (num_features, num_rows) if self.of == "features" else (num_rows, num_features)
        return self._replace(gram=other < GRAM_BELOW * size)

    def standardised(self) -> tuple[int, float, Ranks]:
        """Returns what `Standard` asks for."""
        assert self.eps is not None
        return (0, self.eps, self.ranks) if self.of == "features" else (1, self.eps, ALONE)


def split(a: Tensor, b: Tensor | None, form: Form) -> tuple[Tensor, Tensor]:
    """Returns the diagonal of the product of two views, and the sum of squares off it: a scalar.

    Args:
        a, b: (n, D), this rank's rows; without b it is a with itself.
        form: of "features" is a^T b (D, D) summed over the rows of all `ranks`, with diagonal (D,); of "samples" is
            a b^T (N, N) of the rows of all ranks, with this rank's part (n,) of its diagonal. With `eps` each feature,
            or each sample, is standardised, see `Standard`; without, they are taken as they are.
    """
    return _Split.apply(a, b, form.chosen(a))


def plain_split(a: Tensor, b: Tensor | None, form: Form) -> tuple[Tensor, Tensor]:
    """Returns what `split` does, from the whole product, of operations that autograd sees."""
    x, y = (z if z is None or form.eps is None else plain_standard(z, *form.standardised()) for z in (a, b))
    assert x is not None
    whole_x, whole_y = form.ranks.gather(x), form.ranks.gather(x if y is None else y)
    diagonal, rest = split_diagonal(whole_x.T @ whole_y if form.of == "features" else whole_x @ whole_y.T)
    if form.of == "samples":
        diagonal = diagonal[form.ranks.rank * len(x) :][: len(x)]
    return diagonal, sum_of_squares(rest)


class _Split(torch.autograd.Function):
    """The gradients of the rows x and y are products with a matrix each, of one of two kinds.

    By rows, (n, N): this rank's rows of y y^T and x x^T (features, Gram), or of S and S^T (samples). They multiply the
    rows of all ranks, which are gathered once: these matrices being symmetric, or each other's transposed, a rank's own
    rows have all that its gradient needs, and none is sent back.
    Summed over ranks, (D, D): C^T and C (features), or y^T y and x^T x (samples, Gram). This rank's rows multiply them.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor | None, form: Form) -> tuple[Tensor, Tensor]:
        ctx.form, ranks = form, form.ranks
        if form.eps is None:
            x, y, factors = a, a if b is None else b, []
        else:
            pair = [Standard.of(z, *form.standardised()) for z in (a, b) if z is not None]
            x, y, factors = pair[0].rows, pair[-1].rows, [part.factor for part in pair]
        all_x = ranks.gather(x) if form.by_rows else x
        all_y = all_x if y is x else ranks.gather(y) if form.by_rows else y

        def product(left: Tensor, right: Tensor) -> Tensor:
            if form.by_rows:
                return symmetric(left) if left is right else left @ right.T
            return ranks.sum(symmetric(left.T) if left is right else left.T @ right)

        if form.gram:
            for_x = product(y, all_y)
            for_y = for_x if y is x else product(x, all_x)
            diagonal, squares = dot(x, y, 0 if form.of == "features" else 1), inner(for_x, for_y)
            if form.of == "features":
                sums = ranks.sum(torch.cat([diagonal, squares[None]]))
                diagonal, squares = sums[:-1].clone(), sums[-1]
                rest = squares - diagonal.square().sum()
            else:
                rest = squares - ranks.sum(diagonal.square().sum())
            rest = rest.clamp_min(0)
        elif form.of == "features":
            for_y = product(x, y)
            diagonal = _take_diagonal(for_y)
            for_x, rest = for_y.T, inner(for_y, for_y)
        else:
            for_x = product(x, all_y)
            diagonal = _take_diagonal(for_x, ranks.rank)
            for_y = for_x.T
            if ranks.size > 1:
                for_y = product(y, all_x)
                _take_diagonal(for_y, ranks.rank)
            rest = ranks.sum(inner(for_x, for_x))
        ctx.save_for_backward(a, b, x, y, all_x, all_y, for_x, for_y, diagonal, *factors)
        return diagonal, rest

    @staticmethod
    @at_least_float32  # for a backward pass inside an autocast region
    def backward(ctx: Any, of_diagonal: Tensor, of_rest: Tensor) -> tuple[Tensor | None, ...]:
        form = ctx.form
        a, b, x, y, all_x, all_y, for_x, for_y, diagonal, *factors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return differentiable_again(plain_split, (of_diagonal, of_rest), a, b, form)
        of_rest = of_rest * form.ranks.size  # every rank has this result, and wants the same of it
        if form.of == "features":
            of_diagonal = of_diagonal * form.ranks.size
        if form.gram:
            of_diagonal = of_diagonal - 2 * of_rest * diagonal
        if form.of == "samples":
            of_diagonal = of_diagonal[:, None]
        times = 2 if b is None else 1

        def gradient(matrix: Tensor, factor: Tensor, partner: Tensor) -> Tensor:
            found = matrix @ factor if form.by_rows else factor @ matrix
            return found.mul_(2 * times * of_rest).addcmul_(partner, of_diagonal, value=times)

        if not form.gram:
            all_x, all_y = all_y, all_x
        of_x = gradient(for_x, all_x, y) if ctx.needs_input_grad[0] else None
        of_y = gradient(for_y, all_y, x) if ctx.needs_input_grad[1] else None
        if factors:
            dim, _, ranks = form.standardised()
            for rows, factor, found in ((x, factors[0], of_x), (y, factors[-1], of_y)):
                if found is not None:
                    Standard(rows, factor).back(found, dim, ranks)
        return of_x, of_y, None


def _take_diagonal(matrix: Tensor, block: int = 0) -> Tensor:
    """Returns the diagonal (n,) of the block (n, n) that is `block`-th from the left, and leaves zeros there."""
    diagonal = matrix.diagonal(block * len(matrix))
    taken = diagonal.clone()
    diagonal.zero_()
    return taken
