"""Datasets of torch: every row once in every kind of DataLoader; states; a model that learns."""

import copy
import gc
import json
import multiprocessing
import pickle
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from filtered import FILTERS, count_matrix, store
from scipy.sparse import csc_array, csr_array
from test_examples import load

import diskcsr

torch = pytest.importorskip("torch", reason="datasets of torch need it")

from torch.utils.data import BatchSampler, DataLoader, DistributedSampler  # noqa: E402

from diskcsr.interop.torch import BatchDataset, RowDataset, collate, to_tensor  # noqa: E402

ROWS = 103
FORK = {"num_workers": 2, "multiprocessing_context": "fork"}
SPAWN = {"num_workers": 2, "multiprocessing_context": "spawn"}  # takes seconds to begin
#: No workers; forked ones, made for each epoch or kept.
LOADERS = [{}, FORK, {**FORK, "persistent_workers": True}]
each_loader = pytest.mark.parametrize(
    "how", LOADERS, ids=lambda how: "-".join(map(str, how.values())) or "here"
)
# torch's own; the process that forks has threads of ours, which wait.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # called by torchdata
]


@pytest.fixture
def matrix():
    return count_matrix(ROWS)


@pytest.fixture(params=["none", "shuffle+gzip"])
def array(request, tmp_path, matrix):
    path = store(tmp_path / "m.h5", matrix, chunk=100, steps=FILTERS[request.param])
    with diskcsr.open(path) as opened:
        yield opened


@pytest.fixture
def stored(tmp_path, matrix):
    path = store(tmp_path / "m.h5", matrix, chunk=100, steps=FILTERS["none"])
    with diskcsr.open(path) as opened:
        yield opened


def epoch_of(loader, matrix):
    """The rows of each batch of an epoch; what they hold is checked."""
    found = []
    for rows, X in loader:
        assert (rows.dtype, X.layout) == (torch.int64, torch.sparse_csr)
        assert np.array_equal(X.to_dense().numpy(), matrix[rows.numpy()].toarray())
        found.append(rows.tolist())
    return found


def flat(batches):
    return [row for batch in batches for row in batch]


def no_children():
    """Whether all workers end, once nobody holds their iterator."""
    gc.collect()
    until = time.monotonic() + 20
    while multiprocessing.active_children() and time.monotonic() < until:
        time.sleep(0.05)
    return multiprocessing.active_children() == []


# --------------------------------------------------------------------------------- conversions


@pytest.mark.parametrize("kind", [csr_array, csc_array])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_tensors_lie_in_the_same_memory(matrix, kind, index):
    batch = kind(matrix)
    batch.indices, batch.indptr = batch.indices.astype(index), batch.indptr.astype(index)
    tensor = to_tensor(batch)
    assert tensor.layout == getattr(torch, f"sparse_{batch.format}")
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, batch.shape)
    assert np.array_equal(tensor.to_dense().numpy(), matrix.toarray())
    assert tensor.values().data_ptr() == batch.data.ctypes.data
    pointers = (
        (tensor.crow_indices(), tensor.col_indices())
        if batch.format == "csr"
        else (tensor.ccol_indices(), tensor.row_indices())
    )
    assert pointers[0].data_ptr() == batch.indptr.ctypes.data
    assert pointers[1].data_ptr() == batch.indices.ctypes.data
    assert str(pointers[0].dtype) == f"torch.{np.dtype(index)}"


def test_other_parts_of_batches():
    dense = np.arange(6.0).reshape(2, 3)
    names = np.array(["a", "b"], object)
    found = to_tensor((np.array([3, 1]), dense, {"name": names, "good": np.array([True, False])}))
    assert found[0].tolist() == [3, 1]
    assert found[1].data_ptr() == dense.ctypes.data
    assert found[2]["name"] is names
    assert found[2]["good"].dtype == torch.bool


def test_batches_are_not_copied(stored):
    """Nor overwritten as long as a tensor has them."""
    data = BatchDataset(stored, 5, buffer_size=10)
    kept = list(data)
    again = list(data)
    for tensors in zip(kept, again, stored.batches(5), strict=True):
        dense = [tensor.to_dense().numpy() for tensor in tensors[:2]]
        assert np.array_equal(dense[0], tensors[2].toarray())
        assert np.array_equal(dense[1], tensors[2].toarray())
    batches = stored.batches(5)
    (batch, *_) = batches
    assert to_tensor(batch).values().data_ptr() == batch.data.ctypes.data


# ------------------------------------------------------------------------------- BatchDataset


@each_loader
@pytest.mark.parametrize("block", [{}, {"block_size": 4, "buffer_size": 14}], ids=["rows", "block"])
def test_every_row_once_and_other_orders(array, matrix, how, block):
    check_epochs(array, matrix, how, block, 3)


@pytest.mark.parametrize("kept", [False, True], ids=["each", "kept"])
def test_spawned_workers(stored, matrix, kept):
    """They open the file themselves, and share with this process which epoch it is."""
    block = {"block_size": 4, "buffer_size": 14} if kept else {}
    check_epochs(stored, matrix, {**SPAWN, "persistent_workers": kept}, block, 3 if kept else 2)


def check_epochs(array, matrix, how, block, count):
    data = BatchDataset(array, 7, shuffle=True, rng=0, return_rows=True, **block)
    loader = DataLoader(data, batch_size=None, **how)
    alone = array.batches(7, shuffle=True, rng=0, return_rows=True, **block)
    assert len(loader) == len(data) == 15
    epochs = []
    for epoch in range(count):
        assert data.epoch == epoch
        found = epoch_of(loader, matrix)
        assert sorted(flat(found)) == list(range(ROWS))
        expected = [rows.tolist() for rows, _ in alone]
        assert sorted(found) == sorted(expected)
        if not block or not how:  # in the very same order
            assert found == expected
        epochs.append(found)
    assert len(set(map(str, epochs))) == count
    if count == 3:
        data.set_epoch(1)
        assert epoch_of(loader, matrix) == epochs[1]
        assert epoch_of(loader, matrix) == epochs[2]
    del loader
    assert no_children()


def test_two_loaders_of_one_dataset(stored, matrix):
    """Each iteration is an epoch of its own, and its workers agree on which."""
    data = BatchDataset(stored, 10, shuffle=True, rng=0, return_rows=True)
    loader = DataLoader(data, batch_size=None, **FORK)
    for _ in range(3):
        pairs = list(zip(loader, loader, strict=True))
        for side in range(2):
            rows = [pair[side][0].tolist() for pair in pairs]
            assert sorted(flat(rows)) == list(range(ROWS))
    # An iteration that is given up at once leaves the others as they are.
    for _ in range(5):
        next(iter(loader))
    assert sorted(flat(epoch_of(loader, matrix))) == list(range(ROWS))
    other = DataLoader(data, batch_size=None)
    assert sorted(flat(epoch_of(other, matrix))) == list(range(ROWS))


def test_more_workers_than_batches(stored, matrix):
    data = BatchDataset(stored, 200, return_rows=True)
    loader = DataLoader(data, batch_size=None, **FORK)
    assert epoch_of(loader, matrix) == [list(range(ROWS))]


def test_dense_and_beside(stored, matrix):
    names = np.array([f"row {i}" for i in range(ROWS)], object)
    beside = {"y": np.arange(ROWS), "name": names, "twice": stored.lazy * 2}
    data = BatchDataset(stored, 20, dense=True, dtype=np.float64, beside=beside, drop_last=True)
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
    count = 0
    for X, more in loader:
        rows = more["y"].numpy()
        assert (X.layout, X.dtype, tuple(X.shape)) == (torch.strided, torch.float64, (20, 40))
        assert np.array_equal(X.numpy(), matrix[rows].toarray())
        assert np.array_equal(more["twice"].numpy(), 2 * X.numpy())
        assert more["name"].tolist() == names[rows].tolist()
        count += 1
    assert count == 5


def test_columns_of_a_csc(tmp_path, matrix):
    with diskcsr.write(tmp_path / "columns.h5", csc_array(matrix)) as A:
        for columns, X in BatchDataset(A, 6, shuffle=True, rng=0, return_rows=True):
            assert X.layout == torch.sparse_csc
            assert np.array_equal(X.to_dense().numpy(), matrix.toarray()[:, columns.numpy()])


def test_ranks(stored, matrix):
    parts = [
        BatchDataset(stored, 8, shuffle=True, rng=1, return_rows=True, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == 7
    for _ in range(2):
        rows = [flat(epoch_of(part, matrix)) for part in parts]
        assert [len(part) for part in rows] == [51, 51]
        assert len(set(rows[0]) | set(rows[1])) == 102


DISTRIBUTED = """
import sys
import numpy as np, torch, diskcsr
from torch import distributed
from torch.utils.data import DataLoader, DistributedSampler
from diskcsr.interop.torch import BatchDataset, RowDataset, collate

def work(rank, path, store):
    distributed.init_process_group("gloo", f"file://{store}", rank=rank, world_size=2)
    A = diskcsr.open(path)
    data = BatchDataset(A, 8, shuffle=True, rng=1, return_rows=True)
    loader = DataLoader(data, batch_size=None, num_workers=1, multiprocessing_context="fork")
    rows = torch.cat([rows for rows, X in loader])
    everywhere = [torch.empty_like(rows) for _ in range(2)]
    distributed.all_gather(everywhere, rows)
    assert torch.unique(torch.cat(everywhere)).numel() == 102 == 2 * rows.numel()

    data = RowDataset(A, np.arange(A.shape[0]))
    sampler = DistributedSampler(data)
    loader = DataLoader(data, batch_size=8, sampler=sampler, collate_fn=collate)
    rows = torch.cat([y for X, y in loader])
    everywhere = [torch.empty_like(rows) for _ in range(2)]
    distributed.all_gather(everywhere, rows)
    assert torch.unique(torch.cat(everywhere)).numel() == A.shape[0]
    if rank == 0:
        print("all rows")

if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1], sys.argv[2]), nprocs=2)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch is built without it")
def test_distributed(stored, tmp_path):
    """Ranks are found where `torch.distributed` is initialised."""
    script = tmp_path / "ranks.py"
    script.write_text(DISTRIBUTED)
    command = [sys.executable, str(script), stored.filename, str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "all rows" in done.stdout


def test_refused(stored):
    with pytest.raises(ValueError, match="rng must be given"):
        BatchDataset(stored, 8, shuffle=True, world_size=2)
    if not torch.accelerator.is_available():
        with pytest.raises(RuntimeError, match="no accelerator"):
            BatchDataset(stored, 8, pin_memory=True)
    data = BatchDataset(stored, 8)
    data._pin_memory = True  # as where there is an accelerator
    with pytest.raises(RuntimeError, match="workers cannot; use DataLoader"):
        list(DataLoader(data, batch_size=None, **FORK))
    data = BatchDataset(stored, 8, shuffle=True, rng=0, return_rows=True)
    next(iter(data))
    data.load_state_dict(data.state_dict())
    loader = DataLoader(data, batch_size=None, **FORK)
    with pytest.raises(ValueError, match="worker 0 of 1, and this is worker"):
        list(loader)


def test_copies_and_repr(stored, matrix):
    data = BatchDataset(stored, 10, shuffle=True, rng=np.random.default_rng(3), return_rows=True)
    first = epoch_of(data, matrix)
    second = epoch_of(data, matrix)
    assert first != second
    for again in (pickle.loads(pickle.dumps(data)), copy.deepcopy(data)):
        assert again.epoch == 2
        again.set_epoch(1)
        assert data.epoch == 2  # it has a clock of its own
        assert epoch_of(again, matrix) == second
    assert repr(data).startswith("<BatchDataset over <Batches: 11 of 10 rows, shuffled")
    assert repr(RowDataset(stored)).startswith("<RowDataset of 103 over")


def test_threads_are_shared_by_workers(stored):
    class Seen(BatchDataset):
        def __iter__(self):
            list(super().__iter__())
            yield torch.tensor(diskcsr.options.num_threads)

    with diskcsr.options.set(num_threads=5):
        data = Seen(stored, 50)
        loader = DataLoader(data, batch_size=None, **FORK)
        assert [int(number) for number in loader] == [2, 2]
        assert [int(number) for number in data] == [5]


# ---------------------------------------------------------------------- what goes wrong, states


@pytest.mark.parametrize("workers", [0, 2])
def test_an_exception_in_the_consumer_ends_workers(stored, workers):
    how = FORK if workers else {}
    loader = DataLoader(BatchDataset(stored, 4, shuffle=True, rng=0), batch_size=None, **how)

    def consume():
        for i, _ in enumerate(loader):
            if i == 3:
                raise KeyError("consumer")

    with pytest.raises(KeyError, match="consumer"):
        consume()
    assert no_children()
    assert len(list(loader)) == 26


def test_an_error_in_a_worker_reaches_the_consumer(stored):
    loader = DataLoader(
        BatchDataset(stored, 4), batch_size=None, num_workers=1, multiprocessing_context="fork"
    )
    with open(stored.filename, "ab") as file:
        file.write(b"more")

    def consume():
        try:
            list(loader)
        except diskcsr.StaleFileError as problem:
            return str(problem)

    assert "was changed" in consume()
    assert no_children()


def test_states_without_workers(stored, matrix):
    how = {"shuffle": True, "rng": 0, "return_rows": True, "block_size": 3, "buffer_size": 20}
    data = BatchDataset(stored, 5, **how)
    whole = [epoch_of(data, matrix) for _ in range(3)]
    data.set_epoch(1)
    running = iter(data)
    for _ in range(7):
        next(running)
    state = json.loads(json.dumps(data.state_dict()))
    for again in (BatchDataset(stored, 5, **how, state=state), BatchDataset(stored, 5, **how)):
        if again.epoch == 0:
            again.load_state_dict(state)
        assert epoch_of(again, matrix) == whole[1][7:]
        assert epoch_of(again, matrix) == whole[2]
    list(running)
    # At the end of an epoch it is the beginning of the next, for any number of workers.
    again = BatchDataset(stored, 5, **how, state=data.state_dict())
    loader = DataLoader(again, batch_size=None, **FORK)
    assert sorted(epoch_of(loader, matrix)) == sorted(whole[2])
    assert again.epoch == 3
    assert sorted(epoch_of(loader, matrix)) != sorted(whole[2])


@each_loader
@pytest.mark.parametrize("at", [0, 1, 6, 14, 15])
def test_states_of_a_stateful_loader(stored, matrix, how, at):
    stateful = pytest.importorskip("torchdata.stateful_dataloader", reason="a loader with states")

    def loader():
        data = BatchDataset(stored, 7, shuffle=True, rng=0, return_rows=True)
        return stateful.StatefulDataLoader(data, batch_size=None, **how)

    whole = loader()
    expected = [epoch_of(whole, matrix) for _ in range(3)]
    assert len(expected[0]) == 15
    first = loader()
    running = iter(first)
    found = [next(running)[0].tolist() for _ in range(at)]
    state = pickle.loads(pickle.dumps(first.state_dict()))
    again = loader()
    again.load_state_dict(state)
    rest = epoch_of(again, matrix)
    assert found + rest == expected[0]
    assert epoch_of(again, matrix) == expected[1]
    assert epoch_of(again, matrix) == expected[2]


# --------------------------------------------------------------------------------- RowDataset


@pytest.mark.parametrize(
    "how", [*LOADERS, {**SPAWN, "num_workers": 1}], ids=["here", "fork", "kept", "spawn"]
)
@pytest.mark.parametrize("dense", [False, True])
def test_rows_of_samplers(stored, matrix, how, dense):
    data = RowDataset(stored, np.arange(ROWS), dense=dense)
    loader = DataLoader(data, batch_size=10, shuffle=True, collate_fn=collate, **how)
    orders = []
    for _ in range(2 if how.get("multiprocessing_context") != "spawn" else 1):
        order = []
        for X, rows in loader:
            assert X.layout == (torch.strided if dense else torch.sparse_csr)
            assert np.array_equal(X.to_dense().numpy(), matrix[rows.numpy()].toarray())
            order += rows.tolist()
        assert sorted(order) == list(range(ROWS))
        orders.append(order)
    assert len(orders) == 1 or orders[0] != orders[1]


def test_rows_are_read_together(stored, matrix, monkeypatch):
    calls = []
    read = diskcsr.blocks.contents.Contents.plan
    monkeypatch.setattr(
        diskcsr.blocks.contents.Contents,
        "plan",
        lambda self, majors: calls.append(len(majors)) or read(self, majors),
    )
    data = RowDataset(stored)
    loader = DataLoader(data, batch_size=50, collate_fn=collate)
    assert [tuple(X.shape) for X in loader] == [(50, 40), (50, 40), (3, 40)]
    assert calls == [50, 50, 3]
    # A sampler of whole batches needs no collate function.
    batched = BatchSampler(range(ROWS), 60, drop_last=True)
    (X,) = DataLoader(data, batch_size=None, sampler=batched)
    assert np.array_equal(X.to_dense().numpy(), matrix[:60].toarray())
    assert np.array_equal(data[5].to_dense().numpy(), matrix[[5]].toarray())
    assert np.array_equal(data[-1].to_dense().numpy(), matrix[[ROWS - 1]].toarray())


def test_rows_there_are_none_of(stored):
    data = RowDataset(stored, np.arange(ROWS))
    for row in (ROWS, -ROWS - 1):
        with pytest.raises(IndexError, match="there are 103 rows"):
            data[row]
    with pytest.raises(ValueError, match="has 5 entries"):
        RowDataset(stored, np.arange(5))
    with pytest.raises(TypeError, match="collate_fn=collate"):
        list(DataLoader(data, batch_size=4))
    assert collate([1, 2]).tolist() == [1, 2]  # of others


def test_samplers_of_several_processes(stored):
    data = RowDataset(stored, np.arange(ROWS))
    rows = []
    for rank in range(2):
        sampler = DistributedSampler(data, num_replicas=2, rank=rank)
        for _, y in DataLoader(data, batch_size=9, sampler=sampler, collate_fn=collate):
            rows += y.tolist()
    assert set(rows) == set(range(ROWS))
    assert len(rows) == ROWS + 1  # as it is torch's way


# ------------------------------------------------------------------------------- it learns


def modules_of(packages):
    """Words of the standard library's modules, and which of the packages each is of."""
    quickstart = load("quickstart.py")
    documents = {
        name: words
        for name, words in quickstart.read_modules().items()
        if name.split("/")[0] in packages and len(words) > 20
    }
    labels = np.array([packages.index(name.split("/")[0]) for name in documents])
    matrix = quickstart.tf_idf(documents.values())
    common = np.argsort(-np.bincount(matrix.indices), kind="stable")[:4000]
    return csr_array(matrix[:, np.sort(common)]), labels


def trained(A, labels, rows, **workers):
    """A linear classifier after four epochs, and its losses."""
    n = int(labels.max()) + 1
    data = BatchDataset(A, 16, rows=rows, groups=labels, rng=0, beside={"label": labels})
    loader = DataLoader(data, batch_size=None, **workers)
    weights = torch.zeros(A.shape[1], n, requires_grad=True)
    optimizer = torch.optim.Adam([weights], lr=0.01)
    losses = []
    for _ in range(4):
        for X, more in loader:
            loss = torch.nn.functional.cross_entropy(X @ weights, more["label"])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return weights.detach(), losses


def test_a_classifier_learns_packages_from_words(tmp_path):
    """Of modules it has not seen it knows the package, of each package about as well."""
    packages = ["test", "idlelib", "encodings", "asyncio"]
    matrix, labels = modules_of(packages)
    order = np.random.default_rng(0).permutation(labels.size)
    seen, unseen = order[labels.size // 4 :], order[: labels.size // 4]
    with diskcsr.write(tmp_path / "words.h5", matrix, compression="gzip") as A:
        weights, losses = trained(A, labels, seen)
        assert losses[0] == pytest.approx(np.log(4))  # it knows nothing yet
        assert np.mean(losses[-20:]) < 0.3
        right = {package: [] for package in range(len(packages))}
        for X, more in BatchDataset(A, 64, rows=unseen, beside={"label": labels}):
            for label, guess in zip(more["label"], (X @ weights).argmax(1), strict=True):
                right[int(label)].append(bool(label == guess))
        # Three of four modules are of one package; each package counts the same here.
        assert np.mean([np.mean(found) for found in right.values() if found]) > 0.8
        # Workers give it the same batches in the same order.
        assert trained(A, labels, seen, **FORK)[1] == pytest.approx(losses, rel=1e-4)


def test_without_torch(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        sys.modules["torch"] = None
        import diskcsr
        try:
            import diskcsr.interop.torch
        except ImportError as problem:
            print(problem)
        """
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == (
        "diskcsr.interop.torch takes torch, which is not installed: pip install 'diskcsr[torch]'\n"
    )
