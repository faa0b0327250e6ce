"""Calls of scikit-learn."""

import importlib

import numpy as np

from .calls import LABELS, LOOSE, TALL, TARGET, Call


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
