"""The principal components as an estimator of scikit-learn's (extra ``sklearn``)."""

from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ..protocol.handle import contents_of
from .decomposition import pca

__all__ = ["PCA"]


class PCA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Principal components of the rows of a sparse matrix, on disk or in memory.

    Parameters
    ----------
    n_components : int
    center, scale, tol, max_passes
        As of `diskcsr.linalg.pca`.
    random_state : numpy.random.Generator, int or None
        As `rng` there.

    Attributes
    ----------
    components_ : (n_components, n_features) array
    explained_variance_, explained_variance_ratio_, singular_values_ : (n_components,) array
    mean_, scale_ : (n_features,) array
    n_components_, n_samples_, n_features_in_ : int

    Examples
    --------
    >>> from diskcsr.linalg import PCA  # doctest: +SKIP
    >>> PCA(50, random_state=0).fit_transform(np.log1p(A.lazy))  # doctest: +SKIP
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        center: bool = True,
        scale: bool = False,
        tol: float = 1e-6,
        max_passes: int = 50,
        random_state: Any = None,
    ) -> None:
        self.n_components = n_components
        self.center = center
        self.scale = scale
        self.tol = tol
        self.max_passes = max_passes
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Find the components of the rows of `X`."""
        self._fit(X)
        return self

    def fit_transform(self, X: Any, y: Any = None) -> np.ndarray:
        """Find the components, and return the rows in their space."""
        return self._fit(X)

    def transform(self, X: Any) -> np.ndarray:
        """Return rows in the space of the components."""
        check_is_fitted(self)
        X = self._validated(X, reset=False)
        directions = (self.components_ / self.scale_).T
        return np.asarray(X @ directions) - self.mean_ @ directions

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the (dense) rows that have these scores."""
        check_is_fitted(self)
        return np.asarray(X) @ self.components_ * self.scale_ + self.mean_

    @property
    def _n_features_out(self) -> int:
        return int(self.n_components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float64"]
        return tags

    def _fit(self, X: Any) -> np.ndarray:
        X = self._validated(X, reset=True)
        found = pca(
            X,
            self.n_components,
            center=self.center,
            scale=self.scale,
            rng=self._generator(),
            tol=self.tol,
            max_passes=self.max_passes,
        )
        self.components_ = found.components
        self.explained_variance_ = found.explained_variance
        self.explained_variance_ratio_ = found.explained_variance_ratio
        self.singular_values_ = found.singular_values
        self.mean_, self.scale_ = found.mean, found.scale
        self.n_components_, self.n_samples_ = found.components.shape[0], X.shape[0]
        return found.scores

    def _generator(self) -> Any:
        state = self.random_state
        if isinstance(state, np.random.RandomState):  # scikit-learn's older kind
            return np.random.default_rng(state.randint(0, 2**31 - 1))
        return state

    def _validated(self, X: Any, *, reset: bool) -> Any:
        """Check the input; of what is on disk no more than its shape and dtype is looked at."""
        if contents_of(X) is not None:
            return validate_data(self, X, reset=reset, skip_check_array=True)
        from scipy.sparse import csr_array, issparse

        X = validate_data(self, X, reset=reset, accept_sparse=("csr", "csc"), dtype="numeric")
        return X if issparse(X) else csr_array(X)
