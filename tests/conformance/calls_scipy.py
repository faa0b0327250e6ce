"""Calls of scipy and numpy, and of the methods and operators of the arrays themselves."""

import copy
import io
import operator
import pickle

import numpy as np
import scipy.io
from scipy import sparse
from scipy.sparse import csgraph, linalg

from .calls import (
    GRAPH,
    LOOSE,
    MASK,
    ROWS,
    SYMMETRIC,
    TALL,
    TARGET,
    TWO,
    VECTOR,
    WIDE,
    Call,
    saved,
)

START = {"v0": np.ones(40)}


def _abs_vectors(u, s, vt):
    """Singular vectors are known up to their sign."""
    return abs(u), s, abs(vt)


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


def _npz(path, matrix):
    with path.open("wb") as file:
        sparse.save_npz(file, matrix)


def _text(matrix):
    file = io.BytesIO()
    scipy.io.mmwrite(file, matrix)
    return file.getvalue().decode()


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
    Call("reductions(unsorted)", lambda X: [X.nnz, X.sum(1), X.max(0), X.mean(), X.argmax(1)],
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
