"""What other people's functions are called with: one row a call, matrix in, result out.

A row is ``Call(name, function of the matrices, ...)``. `test_consumers.py` makes each call with
plain scipy matrices and with the same ones on disk and compares everything that came of it.
"""

import copy
import importlib
import io
import operator
import pickle
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io
from scipy import sparse
from scipy.sparse import csgraph, linalg


@dataclass(frozen=True)
class Call:
    """One call of a consumer.

    Parameters
    ----------
    name : str
        Id of the test.
    run : callable
        Takes as many matrices as `matrices` has names.
    matrices : tuple of str
        Keys of `MATRICES`.
    needs : str
        Module without which the row is skipped.
    rtol : float
        Relative tolerance of floats: wider where an algorithm iterates until it is close enough.
    raises : exception class, or dict of them by name of a scipy class or format
        What plain matrices are refused with: ours must be refused alike.
    inplace : bool
        The consumer changes its argument: done in both modes, and the same change is expected.
    handles : bool
        The result may be on disk too, though scipy's is a new matrix: nothing is to be read for it.
    """

    name: str
    run: Callable
    matrices: tuple = ("counts",)
    needs: str = "scipy"
    rtol: float = 1e-12
    raises: Any = None
    inplace: bool = False
    handles: bool = False

    def __str__(self):
        return self.name

    def refusal(self, kind):
        """Return what matrices of scipy's class `kind` are refused with, or None."""
        if isinstance(self.raises, dict):
            return self.raises.get(kind, self.raises.get(kind[:3]))
        return self.raises


def _random(rows, columns, density, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(1, 9, (rows, columns)).astype(np.float64)
    return np.where(rng.random((rows, columns)) < density, values, 0)


def _definite():
    half = _random(40, 40, 0.1, 3)
    return half @ half.T + 40 * np.eye(40)


def _scrambled(plain):
    """Put the entries of each row (of a csc: column) in falling order, the last as two halves."""
    ends = plain.indptr[1:-1]
    indices = [np.r_[row[::-1], row[-1:]] for row in np.split(plain.indices, ends)]
    data = [np.r_[row[-1:] / 2, row[-2::-1], row[-1:] / 2] for row in np.split(plain.data, ends)]
    indptr = np.cumsum([0, *map(len, indices)]).astype(plain.indptr.dtype)
    arrays = np.concatenate(data), np.concatenate(indices), indptr
    return type(plain)(arrays, shape=plain.shape)


def make(name, kind):
    """Return matrix `name` of `MATRICES` as an object of scipy's class `kind`."""
    plain = getattr(sparse, kind)(MATRICES[name]())
    return _scrambled(plain) if name == "unsorted" else plain


#: The matrices of the calls, dense.
MATRICES = {
    "counts": lambda: _random(60, 40, 0.2, 0),
    "more": lambda: _random(60, 40, 0.3, 1),
    "float32": lambda: (_random(60, 40, 0.2, 0) / 3).astype(np.float32),
    "integers": lambda: (_random(60, 40, 0.2, 4) - 4).astype(np.int64),
    "unsorted": lambda: _random(60, 40, 0.2, 0),
    "definite": _definite,
    "lower": lambda: np.tril(_definite()),
    "graph": lambda: np.triu(_random(30, 30, 0.1, 5), 1).astype(np.int32),
    "empty": lambda: np.zeros((5, 7)),
}
ROWS = np.array([7, 3, 3, -1, 59, 0])
MASK = np.random.default_rng(6).random(60) < 0.3
LABELS = np.arange(60) % 3
TARGET = np.linspace(-1, 1, 60) ** 2
WIDE, TALL = np.random.default_rng(7).random((60, 4)), np.random.default_rng(8).random((40, 4))
LOOSE = {"rtol": 1e-6}


def sklearn(module):
    """Return a module of scikit-learn, which is imported by nothing that does not use it."""
    return importlib.import_module(f"sklearn.{module}")


def fit(module, name, *results, **options):
    """Make a call: fit an estimator to the matrix and return some of what it then has.

    Each of `results` is a fitted attribute, or a method that is called with the matrix.
    """

    def run(matrix):
        estimator = getattr(sklearn(module), name)(**options)
        estimator.fit(matrix, TARGET if name in REGRESSORS else LABELS)
        return {
            result: getattr(estimator, result)
            if result.endswith("_")
            else getattr(estimator, result)(matrix)
            for result in results
        }

    return run


REGRESSORS = ("Ridge", "Lasso", "LinearRegression")


def _learn(name, *args, label="", rtol=1e-6, **options):
    module, estimator = name.rsplit(".", 1)
    run = fit(module, estimator, *args, **options)
    return Call(f"sklearn.{estimator}{label}", run, needs="sklearn", rtol=rtol)


def _sk(name, run, **options):
    return Call(f"sklearn.{name}", run, needs="sklearn", **options)


ESTIMATORS = [
    _learn("decomposition.TruncatedSVD", "transform", "components_", n_components=5,
           random_state=0),
    _learn("decomposition.TruncatedSVD", "transform", label="(arpack)", n_components=5,
           algorithm="arpack", random_state=0),
    _learn("decomposition.PCA", "transform", n_components=4, svd_solver="arpack", random_state=0),
    _learn("decomposition.IncrementalPCA", "transform", n_components=4, batch_size=20),
    _learn("decomposition.NMF", "transform", n_components=3, init="nndsvd", random_state=0),
    _learn("decomposition.LatentDirichletAllocation", "transform", n_components=3, random_state=0),
    _learn("linear_model.LogisticRegression", "coef_", "predict_proba", max_iter=500),
    _learn("linear_model.LogisticRegression", "coef_", label="(saga)", solver="saga",
           max_iter=3000, random_state=0),
    _learn("linear_model.SGDClassifier", "coef_", "predict", random_state=0),
    _learn("linear_model.Ridge", "coef_", "predict"),
    _learn("linear_model.Lasso", "coef_", "predict", alpha=0.01),
    _learn("linear_model.LinearRegression", "coef_"),
    _learn("svm.LinearSVC", "coef_", random_state=0, max_iter=20000),
    _learn("svm.SVC", "decision_function", kernel="rbf"),
    _learn("naive_bayes.MultinomialNB", "feature_log_prob_", "predict"),
    _learn("naive_bayes.ComplementNB", "feature_log_prob_", "predict"),
    _learn("naive_bayes.BernoulliNB", "feature_log_prob_", "predict"),
    _learn("tree.DecisionTreeClassifier", "predict", "feature_importances_", random_state=0),
    _learn("ensemble.RandomForestClassifier", "predict_proba", n_estimators=5, random_state=0),
    _learn("dummy.DummyClassifier", "predict"),
    _learn("neural_network.MLPClassifier", "predict_proba", hidden_layer_sizes=(4,), max_iter=30,
           random_state=0, rtol=1e-4),
    _learn("cluster.KMeans", "labels_", "cluster_centers_", "transform", n_clusters=3, n_init=2,
           random_state=0),
    _learn("cluster.MiniBatchKMeans", "labels_", "cluster_centers_", n_clusters=3, n_init=2,
           random_state=0),
    _learn("cluster.DBSCAN", "labels_", eps=14.0),
    _learn("neighbors.NearestNeighbors", "kneighbors", "kneighbors_graph"),
    _learn("preprocessing.StandardScaler", "transform", "var_", with_mean=False),
    _learn("preprocessing.MaxAbsScaler", "transform", "max_abs_"),
    _learn("preprocessing.RobustScaler", "transform", with_centering=False),
    _learn("preprocessing.Normalizer", "transform"),
    _learn("preprocessing.Binarizer", "transform", threshold=3),
    _learn("preprocessing.FunctionTransformer", "transform", func=np.log1p, accept_sparse=True),
    _learn("feature_extraction.text.TfidfTransformer", "transform", "idf_"),
    _learn("feature_selection.VarianceThreshold", "transform", "variances_", threshold=5.0),
    _learn("random_projection.SparseRandomProjection", "transform", n_components=8, random_state=0),
    _sk("SelectKBest(chi2)", lambda X: sklearn("feature_selection")
        .SelectKBest(sklearn("feature_selection").chi2, k=9).fit_transform(X, LABELS)),
    _sk("Pipeline", lambda X: sklearn("pipeline").make_pipeline(
        sklearn("feature_extraction.text").TfidfTransformer(),
        sklearn("naive_bayes").MultinomialNB()).fit(X, LABELS).predict_proba(X)),
]  # fmt: skip

SKLEARN = [
    _sk("normalize", lambda X: sklearn("preprocessing").normalize(X)),
    _sk("normalize(axis=0)", lambda X: sklearn("preprocessing").normalize(X, axis=0)),
    _sk("normalize(copy=False)", lambda X: sklearn("preprocessing").normalize(X, copy=False),
        inplace=True),
    _sk("maxabs_scale", lambda X: sklearn("preprocessing").maxabs_scale(X)),
    _sk("TfidfTransformer(copy=False)", lambda X: sklearn("feature_extraction.text")
        .TfidfTransformer().fit(X).transform(X, copy=False), inplace=True),
    _sk("train_test_split", lambda X: sklearn("model_selection").train_test_split(
        X, LABELS, random_state=0)),
    _sk("KFold", lambda X: [X[test] for _, test in sklearn("model_selection").KFold(4).split(X)]),
    _sk("cross_val_score", lambda X: sklearn("model_selection").cross_val_score(
        sklearn("naive_bayes").MultinomialNB(), X, LABELS, cv=3)),
    _sk("cross_val_score(threads)", lambda X: in_threads(lambda: sklearn("model_selection")
        .cross_val_score(sklearn("naive_bayes").MultinomialNB(), X, LABELS, cv=3, n_jobs=2))),
    _sk("GridSearchCV", lambda X: sklearn("model_selection").GridSearchCV(
        sklearn("naive_bayes").MultinomialNB(), {"alpha": [0.1, 1]}, cv=3).fit(X, LABELS)
        .cv_results_["mean_test_score"]),
    _sk("cosine_similarity", lambda X: sklearn("metrics.pairwise").cosine_similarity(X)),
    _sk("cosine_similarity(sparse)", lambda X: sklearn("metrics.pairwise")
        .cosine_similarity(X, dense_output=False)),
    _sk("euclidean_distances", lambda X: sklearn("metrics.pairwise").euclidean_distances(X)),
    _sk("pairwise_distances(manhattan)", lambda X: sklearn("metrics.pairwise")
        .manhattan_distances(X)),
    _sk("linear_kernel", lambda X, Y: sklearn("metrics.pairwise").linear_kernel(X, Y),
        matrices=("counts", "more")),
    _sk("shuffle", lambda X: sklearn("utils").shuffle(X, LABELS, random_state=0)),
    _sk("resample", lambda X: sklearn("utils").resample(X, random_state=0)),
    _sk("check_array", lambda X: sklearn("utils").check_array(X, accept_sparse=True)),
    _sk("check_array(float32)", lambda X: sklearn("utils").check_array(
        X, accept_sparse="csr", dtype=np.float32)),
    _sk("check_array(dense)", lambda X: sklearn("utils").check_array(X), raises=TypeError),
    _sk("safe_sparse_dot", lambda X: sklearn("utils.extmath").safe_sparse_dot(X, TALL)),
    _sk("row_norms", lambda X: sklearn("utils.extmath").row_norms(X)),
    _sk("randomized_svd", lambda X: sklearn("utils.extmath").randomized_svd(
        X, 4, random_state=0), **LOOSE),
    _sk("mean_variance_axis", lambda X: sklearn("utils.sparsefuncs").mean_variance_axis(X, 0)),
    _sk("min_max_axis", lambda X: sklearn("utils.sparsefuncs").min_max_axis(X, 1)),
    _sk("inplace_column_scale", lambda X: sklearn("utils.sparsefuncs").inplace_column_scale(
        X, np.arange(40.0)), inplace=True),
    _sk("inplace_row_scale", lambda X: sklearn("utils.sparsefuncs").inplace_row_scale(
        X, np.arange(60.0)), inplace=True),
]  # fmt: skip


def in_threads(function):
    """Run what uses joblib with its threads, which share the matrix and the GIL."""
    with importlib.import_module("joblib").parallel_config(backend="threading"):
        return function()


def _abs_vectors(u, s, vt):
    """Singular vectors are known up to their sign."""
    return abs(u), s, abs(vt)


VECTOR = np.linspace(0.5, 2, 40)
SYMMETRIC = {"matrices": ("definite",)} | LOOSE
START = {"v0": np.ones(40)}

LINALG = [
    Call("svds", lambda X: _abs_vectors(*linalg.svds(X, 4, **START)), **LOOSE),
    Call("svds(lobpcg)", lambda X: linalg.svds(X, 3, solver="lobpcg", return_singular_vectors=False,
         **START), **LOOSE),
    Call("eigsh", lambda X: linalg.eigsh(X, 3, return_eigenvectors=False, **START), **SYMMETRIC),
    Call("eigsh(sigma)", lambda X: linalg.eigsh(X, 3, sigma=30.0, return_eigenvectors=False,
         **START), **SYMMETRIC),
    Call("eigs", lambda X: linalg.eigs(X, 3, return_eigenvectors=False, **START), **SYMMETRIC),
    Call("lobpcg", lambda X: linalg.lobpcg(X, TALL[:, :2], maxiter=200, tol=1e-7)[0], **SYMMETRIC),
    Call("lsqr", lambda X: linalg.lsqr(X, TARGET)[:2], **LOOSE),
    Call("lsmr", lambda X: linalg.lsmr(X, TARGET)[:2], **LOOSE),
    Call("cg", lambda X: linalg.cg(X, VECTOR), **SYMMETRIC),
    Call("gmres", lambda X: linalg.gmres(X, VECTOR), **SYMMETRIC),
    Call("bicgstab", lambda X: linalg.bicgstab(X, VECTOR), **SYMMETRIC),
    Call("minres", lambda X: linalg.minres(X, VECTOR), **SYMMETRIC),
    Call("spsolve", lambda X: linalg.spsolve(X, VECTOR), **SYMMETRIC),
    Call("spsolve(sparse)", lambda X, Y: linalg.spsolve(X, Y), ("definite", "lower"), **LOOSE),
    Call("spsolve_triangular", lambda X: linalg.spsolve_triangular(X, VECTOR), ("lower",), **LOOSE),
    Call("splu", lambda X: linalg.splu(X).solve(VECTOR), **SYMMETRIC),
    Call("factorized", lambda X: linalg.factorized(X)(VECTOR), **SYMMETRIC),
    Call("inv", lambda X: linalg.inv(X), **SYMMETRIC),
    Call("expm", lambda X: linalg.expm(X / 1000), **SYMMETRIC),
    Call("expm_multiply", lambda X: linalg.expm_multiply(X, VECTOR), **SYMMETRIC),
    Call("matrix_power", lambda X: linalg.matrix_power(X, 3), **SYMMETRIC),
    Call("norm", lambda X: linalg.norm(X)),
    Call("norm(1)", lambda X: linalg.norm(X, 1)),
    Call("norm(inf)", lambda X: linalg.norm(X, np.inf)),
    Call("norm(axis)", lambda X: [linalg.norm(X, axis=axis) for axis in (0, 1)]),
    Call("norm(transposed)", lambda X: linalg.norm(X.T, 1)),
    Call("onenormest", lambda X: linalg.onenormest(X), **SYMMETRIC),
    Call("aslinearoperator", lambda X: [
        linalg.aslinearoperator(X).matvec(VECTOR), linalg.aslinearoperator(X).rmatvec(TARGET),
        linalg.aslinearoperator(X) @ TALL, linalg.aslinearoperator(X).H @ WIDE,
        linalg.aslinearoperator(X).shape, linalg.aslinearoperator(X).dtype]),
]  # fmt: skip

GRAPH = {"matrices": ("graph",)}
CSGRAPH = [
    Call("connected_components", csgraph.connected_components, **GRAPH),
    Call("connected_components(strong)", lambda X: csgraph.connected_components(
        X, connection="strong"), **GRAPH),
    Call("dijkstra", csgraph.dijkstra, **GRAPH),
    Call("dijkstra(some)", lambda X: csgraph.dijkstra(
        X, indices=[0, 3], return_predecessors=True), **GRAPH),
    Call("shortest_path", csgraph.shortest_path, **GRAPH),
    Call("bellman_ford", csgraph.bellman_ford, **GRAPH),
    Call("floyd_warshall", csgraph.floyd_warshall, **GRAPH),
    Call("maximum_flow", lambda X: [csgraph.maximum_flow(X, 0, 29).flow_value,
         csgraph.maximum_flow(X, 0, 29).flow], **GRAPH, raises={"csc": TypeError}),
    Call("minimum_spanning_tree", csgraph.minimum_spanning_tree, **GRAPH),
    Call("minimum_spanning_tree(overwrite)", lambda X: csgraph.minimum_spanning_tree(
        X, overwrite=True), **GRAPH),
    Call("breadth_first_order", lambda X: csgraph.breadth_first_order(X, 0), **GRAPH),
    Call("depth_first_tree", lambda X: csgraph.depth_first_tree(X, 0), **GRAPH),
    Call("laplacian", csgraph.laplacian, **GRAPH),
    Call("reverse_cuthill_mckee", csgraph.reverse_cuthill_mckee, **GRAPH),
    Call("maximum_bipartite_matching", csgraph.maximum_bipartite_matching, **GRAPH),
    Call("structural_rank", csgraph.structural_rank, **GRAPH),
    Call("csgraph_to_dense", csgraph.csgraph_to_dense, **GRAPH),
]  # fmt: skip


def saved(save, load):
    """Make a call: write the matrix with one function, read it with another."""

    def run(matrix):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "file"
            save(path, matrix)
            return load(path)

    return run


def _npz(path, matrix):
    with path.open("wb") as file:
        sparse.save_npz(file, matrix)


def _text(matrix):
    file = io.BytesIO()
    scipy.io.mmwrite(file, matrix)
    return file.getvalue().decode()


TWO = {"matrices": ("counts", "more")}
CONSTRUCT = [
    Call("vstack", lambda X, Y: sparse.vstack([X, Y]), **TWO),
    Call("vstack(plain)", lambda X: sparse.vstack([X, X.copy(), X[:3]])),
    Call("vstack(csr)", lambda X, Y: sparse.vstack([X, Y], format="csr", dtype=np.float32), **TWO),
    Call("hstack", lambda X, Y: sparse.hstack([X, Y]), **TWO),
    Call("hstack(csc)", lambda X, Y: sparse.hstack([X, Y], format="csc"), **TWO),
    Call("block_array", lambda X, Y: sparse.block_array([[X, None], [None, Y]]), **TWO),
    Call("block_diag", lambda X, Y: sparse.block_diag([X, Y, 3]), **TWO),
    Call("kron", lambda X, Y: sparse.kron(X, Y[:2]), **TWO),
    Call("kronsum", lambda X: sparse.kronsum(X, X), ("definite",)),
    Call("find", sparse.find),
    Call("find(unsorted)", sparse.find, ("unsorted",)),
    Call("tril", lambda X: sparse.tril(X, 1)),
    Call("triu", lambda X: sparse.triu(X, -1, format="csr")),
    Call("save_npz", saved(_npz, sparse.load_npz)),
    Call("mmwrite", _text),
    Call("savemat", saved(lambda path, X: scipy.io.savemat(path, {"X": X}, appendmat=False),
         lambda path: scipy.io.loadmat(path, appendmat=False)["X"])),
    Call("issparse", lambda X: [sparse.issparse(X), sparse.isspmatrix(X), sparse.isspmatrix_csr(X),
         isinstance(X, sparse.csr_array), isinstance(X, sparse.csc_matrix), X.format]),
    *(Call(f"{name}(X)", lambda X, name=name: getattr(sparse, name)(X))
      for name in ("csr_array", "csc_array", "coo_array", "lil_array", "dok_array", "bsr_array",
                   "dia_array", "csr_matrix", "csc_matrix", "coo_matrix")),
    *(Call(f"asformat({name})", lambda X, name=name: X.asformat(name))
      for name in ("csr", "csc", "coo", "lil", "dok", "bsr", "dia")),
]  # fmt: skip

UFUNCS = ["sqrt", "abs", "expm1", "log1p", "sin", "rint", "arctan", "negative"]
NOT_UFUNCS = {"sign": ValueError, "floor": TypeError, "ceil": TypeError, "isnan": TypeError}
NUMPY = [
    *(Call(f"np.{name}", getattr(np, name)) for name in UFUNCS),
    Call("np.square", np.square, raises=dict.fromkeys(["csr_matrix", "csc_matrix"], ValueError)),
    *(Call(f"np.{name}", getattr(np, name), raises=error) for name, error in NOT_UFUNCS.items()),
    *(Call(f"np.{name}(integers)", getattr(np, name), ("integers",)) for name in ("abs", "sqrt")),
    *(Call(f"np.{name}(unsorted)", getattr(np, name), ("unsorted",)) for name in ("sqrt", "abs")),
    Call("np.conjugate", np.conjugate, handles=True),
    Call("np.sum", lambda X: [np.sum(X), np.sum(X, axis=0), np.sum(X, axis=1)]),
    Call("np.mean", lambda X: [np.mean(X), np.mean(X, axis=0), np.mean(X, axis=1)]),
    Call("np.max", lambda X: [np.max(X), np.max(X, axis=0), np.min(X, axis=1)]),
    Call("np.argmax", lambda X: np.argmax(X, axis=1)),
    Call("np.shape", lambda X: [np.shape(X), np.ndim(X), np.size(X)]),
    Call("np.multiply", lambda X: np.multiply(X, 3)),
    Call("np.float64 * X", lambda X: np.float64(3) * X),
    Call("np.asarray", lambda X: [np.asarray(X).shape, np.asarray(X).dtype]),
    Call("np.matmul", lambda X: np.matmul(X, TALL), raises=ValueError),
    Call("np.dot", lambda X: np.dot(X, 2)),
    Call("np.transpose", np.transpose, handles=True),
    Call("np.diff of indptr", lambda X: np.diff(X.indptr)),
    Call("np.add(dense)", lambda X: np.ones((60, 40)) + X),
]  # fmt: skip

OPERATORS = [
    Call("X @ vector", lambda X: X @ VECTOR),
    Call("vector @ X", lambda X: TARGET @ X),
    Call("X @ dense", lambda X: [X @ TALL, X @ np.asfortranarray(TALL), X @ TALL.astype("f4")]),
    Call("dense @ X", lambda X: [WIDE.T @ X, np.asfortranarray(WIDE.T) @ X]),
    Call("X.T @ dense", lambda X: [X.T @ WIDE, X.T @ TARGET, TALL.T @ X.T]),
    Call("X @ list", lambda X: X @ VECTOR.tolist()),
    Call("X @ X.T", lambda X: [X @ X.T, X.T @ X]),
    Call("X @ Y", lambda X, Y: [X @ Y.T, X.T @ Y, Y.T @ X], **TWO),
    Call("X @ plain", lambda X: [X @ sparse.csr_array(TALL), sparse.csc_array(WIDE.T) @ X]),
    Call("X @ coo", lambda X: [X @ sparse.coo_array(TALL), sparse.coo_array(WIDE.T) @ X]),
    Call("X @ diagonal", lambda X: X @ sparse.diags_array(VECTOR)),
    Call("X @ integers", lambda X: [X @ np.arange(40), np.arange(60) @ X, X @ X.T], ("integers",)),
    Call("X @ float32", lambda X: [X @ VECTOR.astype("f4"), X @ VECTOR, X.T @ X], ("float32",),
         rtol=1e-6),
    Call("X @ wrong length", lambda X: X @ TARGET, raises=ValueError),
    Call("X @ scalar", lambda X: X @ 2, raises=ValueError),
    Call("X.dot", lambda X: [X.dot(VECTOR), X.dot(TALL), X.dot(3)]),
    Call("scalars", lambda X: [2 * X, X * 2.5, X / 3, -X, abs(X), X * 1j]),
    Call("scalars(integers)", lambda X: [2 * X, X / 3, -X, abs(X), X.power(2)], ("integers",)),
    Call("X + scalar", lambda X: X + 1, raises=NotImplementedError),
    Call("X + Y", lambda X, Y: [X + Y, X - Y, Y - X.copy()], **TWO),
    Call("X + dense", lambda X: [X + np.ones((60, 40)), np.ones((60, 40)) - X]),
    Call("multiply", lambda X, Y: [X.multiply(Y), X.multiply(VECTOR), X.multiply(TARGET[:, None]),
         X.multiply(2)], **TWO),
    Call("maximum", lambda X, Y: [X.maximum(Y), X.minimum(Y), X.maximum(0)], **TWO),
    Call("compare", lambda X, Y: [X > 3, X != Y, X < Y, X >= Y, X == Y, X != 0], **TWO),
    Call("power", lambda X: [X.power(2), X.power(3, dtype=np.float32)]),
    Call("power(float)", lambda X: X.power(2.5)),
    Call("reductions", lambda X: [X.sum(), X.sum(0), X.sum(1), X.mean(), X.mean(0), X.max(),
         X.min(), X.max(0), X.min(1), X.argmax(), X.argmin(0), X.trace(), X.count_nonzero()]),
    Call("reductions(integers)", lambda X: [X.sum(), X.sum(0), X.mean(1), X.max(1), X.min(0),
         X.argmax(0), X.sum(dtype=np.int8)], ("integers",)),
    Call("reductions(float32)", lambda X: [X.sum(), X.sum(0), X.mean(1), X.max(1), X.min(0)],
         ("float32",), rtol=1e-5),
    Call("reductions(unsorted)", lambda X: [X.sum(1), X.max(0), X.nnz, X.mean(), X.argmax(1)],
         ("unsorted",)),
    Call("reductions(empty)", lambda X: [X.sum(), X.max(), X.mean(0), X.nnz, X.argmax(0)],
         ("empty",)),
    Call("sum(wrong axis)", lambda X: X.sum(axis=3), raises=ValueError),
    Call("reshape", lambda X: [X.reshape((40, 60)), X.reshape(20, 120, order="F"),
         X.reshape(X.shape)]),
    Call("diagonal", lambda X: [X.diagonal(), X.diagonal(3), X.diagonal(-2)]),
    Call("nonzero", lambda X: X.nonzero()),
    Call("toarray", lambda X: [X.toarray(), X.toarray(order="F"), X.todense(),
         X.toarray(out=np.empty((60, 40))), X.toarray().flags.f_contiguous]),
    Call("astype", lambda X: [X.astype(np.float32), X.astype(complex),
         X.astype(X.dtype, copy=False)]),
    Call("conj", lambda X: [X.conj(), X.conj(copy=False), X.T.conj()], handles=True),
    Call("T", lambda X: [X.T, X.T.T, X.transpose((1, 0)), X.T[5], X.T.sum(0)], handles=True),
    Call("transpose(wrong axes)", lambda X: X.transpose(axes=0), raises=ValueError),
    Call("real", lambda X: [X.real, X.imag]),
    Call("attributes", lambda X: [X.shape, X.dtype, X.nnz, X.ndim, X.size, X.format, X.maxprint,
         X.has_sorted_indices, X.has_canonical_format]),
    Call("arrays", lambda X: [X.data, X.indices, X.indptr, type(X.data)]),
    Call("arrays(unsorted)", lambda X: [X.data, X.indices, X.indptr, X.has_sorted_indices,
         X.has_canonical_format], ("unsorted",)),
    Call("sort_indices", lambda X: X.sort_indices(), ("unsorted",), inplace=True),
    Call("sum_duplicates", lambda X: X.sum_duplicates(), ("unsorted",), inplace=True),
    Call("sorted_indices", lambda X: X.sorted_indices(), ("unsorted",)),
    Call("data in place", lambda X: operator.imul(X.data, 2), inplace=True),
    Call("index", lambda X: [X[3], X[-1, 5], X[2:9:3], X[::-1], X[ROWS], X[MASK], X[:, [5, 1, 5]],
         X[ROWS, ROWS[::-1] % 40], X[np.ix_(ROWS, [3, 0])], X[...], X[:, MASK[:40]], X[5:5]]),
    Call("index(unsorted)", lambda X: [X[3], X[-1, 5], X[2:9:3], X[ROWS], X[:, [5, 1]]],
         ("unsorted",)),
    Call("index out of range", lambda X: X[60], raises=IndexError),
    Call("iterate", list),
    Call("len", len, raises=TypeError),
    Call("bool", bool, raises=ValueError),
    Call("in-memory copies", lambda X: [copy.copy(X), copy.deepcopy(X), X.copy(), X.tocoo()]),
    Call("pickle", lambda X: pickle.loads(pickle.dumps(X)).toarray()),
    Call("missing attribute", lambda X: X.no_such_thing, raises=AttributeError),
]  # fmt: skip


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

CALLS = [
    *ESTIMATORS, *SKLEARN, *LINALG, *CSGRAPH, *CONSTRUCT, *NUMPY, *OPERATORS, *ANNDATA, *OTHERS,
]  # fmt: skip
