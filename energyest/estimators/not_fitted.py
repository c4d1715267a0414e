"""The error of a model that is asked before it was fitted."""

from __future__ import annotations

from sklearn import exceptions
from sklearn.utils.validation import check_is_fitted

from energyest.errors import EstimateError


class NotFittedError(EstimateError, exceptions.NotFittedError):
    """A model was asked before it was fitted: the package's error and scikit-learn's."""


def check_fitted(model: object) -> None:
    """Refuse a model that has learnt nothing.

    Raises:
        NotFittedError: as the name says.
    """
    try:
        check_is_fitted(model)
    except exceptions.NotFittedError:
        name = type(model).__name__
        raise NotFittedError(f"{name} is not fitted: call fit() or load() first") from None
