"""Calls of AnnData, joblib, pandas and networkx."""

import importlib
import operator

from .calls import GRAPH, LABELS, MASK, ROWS, TWO, Call, saved


def _anndata(X, **options):
    anndata = importlib.import_module("anndata")
    pandas = importlib.import_module("pandas")
    obs = pandas.DataFrame({"label": LABELS}, index=[f"cell{i}" for i in range(60)])
    return anndata.AnnData(X=X, obs=obs, **options)


def _ad(name, run, **options):
    return Call(f"anndata.{name}", run, needs="anndata", **options)


def _h5ad(write):
    anndata = importlib.import_module("anndata")
    return saved(lambda path, X: write(_anndata(X), path), anndata.read_h5ad)


ANNDATA = [
    _ad("AnnData(X=X)", lambda X: [_anndata(X).X, _anndata(X).shape]),
    _ad("subset", lambda X: [_anndata(X)[ROWS].to_df().to_numpy(), _anndata(X)[:, 3:9].X.toarray(),
        _anndata(X)[MASK, [5, 1]].copy().X, _anndata(X)["cell7"].X.toarray()]),
    _ad("copy", lambda X: _anndata(X).copy().X),
    _ad("transpose", lambda X: _anndata(X).T.X.toarray()),
    _ad("layers", lambda X: _anndata(X, layers={"raw": X})[ROWS].layers["raw"].toarray()),
    _ad("obsm", lambda X: _anndata(X, obsm={"X_pca": X})[ROWS].obsm["X_pca"].toarray()),
    _ad("to_df", lambda X: _anndata(X).to_df().to_numpy()),
    _ad("write_h5ad", lambda X: _h5ad(lambda a, path: a.write_h5ad(path))(X).X),
    _ad("write_h5ad(subset)", lambda X: _h5ad(lambda a, path: a[ROWS[:3]].copy().write_h5ad(path))
        (X).X),
    _ad("write_h5ad(gzip)", lambda X: _h5ad(lambda a, path: a.write_h5ad(path, compression="gzip"))
        (X).X),
    _ad("concat", lambda X, Y: importlib.import_module("anndata").concat(
        {"a": _anndata(X), "b": _anndata(Y)}, index_unique="-").X, **TWO),
    _ad("concat(on columns)", lambda X, Y: importlib.import_module("anndata").concat(
        {"a": _anndata(X), "b": _anndata(Y)}, axis="var", index_unique="-").X, **TWO),
]  # fmt: skip


def _joblib(backend):
    """Make a call: rows taken by two workers of joblib."""

    def run(X):
        joblib = importlib.import_module("joblib")
        take = joblib.delayed(operator.getitem)
        keys = (3, slice(2, 9), ROWS, MASK)
        return joblib.Parallel(n_jobs=2, backend=backend)(take(X, key) for key in keys)

    return run


OTHERS = [
    Call("joblib(threads)", _joblib("threading"), needs="joblib"),
    Call("joblib(processes)", _joblib("loky"), needs="joblib"),
    Call("pandas.from_spmatrix", lambda X: importlib.import_module("pandas").DataFrame.sparse
         .from_spmatrix(X).to_numpy(), needs="pandas"),
    Call("networkx", lambda X: sorted(importlib.import_module("networkx").from_scipy_sparse_array(
        X, create_using=importlib.import_module("networkx").DiGraph).edges(data="weight")),
        needs="networkx", **GRAPH),
]  # fmt: skip
