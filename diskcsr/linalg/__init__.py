"""Singular value decomposition and principal components of matrices that stay in their files.

Everything here takes ``A.lazy`` views as well: counts are normalised, made logarithms and selected
from while they are read, in every pass.
"""

from typing import TYPE_CHECKING, Any

from .decomposition import PCAResult, pca, svds

if TYPE_CHECKING:
    from .estimator import PCA

__all__ = ["PCA", "PCAResult", "pca", "svds"]


def __getattr__(name: str) -> Any:
    if name == "PCA":  # its base classes are scikit-learn's, which is imported only for it
        from .estimator import PCA

        return PCA
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
