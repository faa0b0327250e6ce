"""What examples/training.rst shows of other libraries, run where the library is installed."""

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix

import diskcsr

PAGE = Path(__file__).resolve().parent.parent / "examples" / "training.rst"
ROWS, COLUMNS = 600, 40
#: Raised by other libraries while they are imported or work.
pytestmark = pytest.mark.filterwarnings("default")


def shown(section):
    """The code that the page shows below the title of a section."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^{section}\n[-~=]+\n(.*?)(?=^[^\n]+\n[-~=]+\n|\Z)", text, re.M | re.S)
    blocks = re.findall(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", found[1], re.M)
    return "".join(re.sub(r"^    ", "", block, flags=re.M) for block in blocks)


@pytest.fixture
def names(tmp_path):
    """What the page's programs know: an array whose first columns say the label of a row."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=ROWS)
    dense = rng.random((ROWS, COLUMNS), np.float32) * (rng.random((ROWS, COLUMNS)) < 0.2)
    dense[:, :4] += labels[:, None]
    with diskcsr.write(tmp_path / "m.h5", csr_array(dense.astype(np.float32))) as A:
        yield {"A": A, "labels": labels, "np": np, "diskcsr": diskcsr, "dense": dense}


def test_scikit_learn(names):
    pytest.importorskip("sklearn", reason="shows scikit-learn")
    exec(shown("scikit-learn"), names)
    model = names["model"]
    assert model.score(names["dense"], names["labels"]) > 0.95


@pytest.mark.parametrize("kept", ["in memory", "in files"])
def test_xgboost(names, tmp_path, kept):
    xgboost = pytest.importorskip("xgboost", reason="shows xgboost")
    code = shown("xgboost")
    if kept == "in files":  # as the page says
        code = code.replace("__init__()", f"__init__(cache_prefix={str(tmp_path / 'cache')!r})")
        code = code.replace("QuantileDMatrix", "ExtMemQuantileDMatrix")
    exec(code, names)
    guesses = names["booster"].predict(xgboost.DMatrix(csr_array(names["dense"]))) > 0.5
    assert np.mean(guesses == names["labels"]) > 0.95
    # It is asked for all batches several times, each time from the first on.
    assert names["data"].num_row() == ROWS
    assert names["data"].num_col() == COLUMNS
    whole = xgboost.QuantileDMatrix(csr_array(names["dense"]), names["labels"], max_bin=64)
    other = xgboost.train(names["settings"], whole, num_boost_round=10)
    np.testing.assert_allclose(
        names["booster"].predict(xgboost.DMatrix(csr_array(names["dense"]))),
        other.predict(xgboost.DMatrix(csr_array(names["dense"]))),
        atol=0.1,
    )


def test_lightgbm(names):
    lightgbm = pytest.importorskip("lightgbm", reason="shows lightgbm")
    exec(shown("lightgbm"), names)
    guesses = names["booster"].predict(names["dense"])
    assert np.mean((guesses > 0.5) == names["labels"]) > 0.95
    whole = lightgbm.Dataset(names["dense"], names["labels"])
    other = lightgbm.train(names["settings"], whole, num_boost_round=10)
    np.testing.assert_allclose(guesses, other.predict(names["dense"]), atol=0.1)


def test_implicit(names):
    implicit = pytest.importorskip("implicit", reason="shows implicit")
    names["path"] = names["A"].filename
    exec(shown("implicit"), names)
    model = names["model"]
    assert model.user_factors.shape == (ROWS, 8)
    other = implicit.als.AlternatingLeastSquares(factors=8, iterations=5, random_state=0)
    other.fit(csr_matrix(names["dense"]), show_progress=False)
    np.testing.assert_allclose(model.item_factors, other.item_factors, rtol=1e-3, atol=1e-4)


def test_lightning(names, tmp_path, monkeypatch):
    pytest.importorskip("lightning", reason="shows lightning")
    pytest.importorskip("torch", reason="shows lightning, which is made of torch")
    monkeypatch.chdir(tmp_path)  # it writes logs
    exec(shown("Lightning"), names)
    assert names["losses"][0] == pytest.approx(np.log(2), abs=0.5)
    assert names["losses"][-1] < 0.7 * names["losses"][0]
    assert len(names["losses"]) == 3 * -(-ROWS // 64)


def test_scvi_tools(names, tmp_path, monkeypatch):
    pytest.importorskip("scvi", reason="shows scvi-tools")
    monkeypatch.chdir(tmp_path)  # it writes logs
    exec(shown("scvi-tools"), names)
    losses = names["model"].history["elbo_train"].to_numpy(float).ravel()
    assert losses.size == 4
    assert losses[-1] < losses[0]
