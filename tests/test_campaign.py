"""The campaign's own judgement: what is wrong is found, and nothing else; a seed settles all."""

import json

import campaign  # noqa: F401  puts itself where its children find it
import pytest
from campaign import bits, cases, examine, minimise, run, sources, structures
from campaign.judge import Finding
from campaign.leftovers import LEFTOVERS
from campaign.operations import FAULTY, ROWS
from campaign.pool import Pool
from campaign.records import Records
from campaign.sources import CONVENTIONS, Source

SOURCE = Source(shape=(9, 7), chunk=16, filter="gzip")


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    pool = Pool(tmp_path_factory.mktemp("pool"))
    yield pool
    pool.close()


def sound(*operations, **how):
    return cases.Case("bytes", 0, 0, how.pop("source", SOURCE), [], list(operations), **how)


@pytest.mark.parametrize("name", FAULTY)
def test_what_is_wrong_is_found(pool, monkeypatch, name):
    monkeypatch.setattr(examine, "LIMIT", 2.0)
    result = examine.examine(sound("A[:]", name, "A[rows]"), pool)
    expected = {"wrong dtype": {"wrong"}, "spoilt": {"raw", "wrong"}}.get(name, {name})
    assert {finding.kind for finding in result.findings} == expected
    later = {"A[rows]"} if name == "leak" else set()  # a lock that is left lasts
    assert {finding.operation for finding in result.findings} == {name} | later
    # The others are not affected: a process that ended is replaced.
    assert (result.outcomes[0], result.outcomes[2]) == ("right", "leak" if later else "right")
    text = result.findings[0].text
    assert {"raw": "of ours", "crash": "SIGSEGV", "hang": "in _hang"}.get(name, "") in text


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_sound_files_raise_no_alarm(pool, convention):
    format = "csc" if convention in ("matlab", "10x") else "csr"
    source = Source(convention, format, (9, 7), dtype="f8", index="i4")
    names = [row.name for row in ROWS.values() if not row.slow]
    result = examine.examine(sound(*names, source=source), pool)
    assert [(f.operation, f.signature, f.text) for f in result.findings] == []
    assert len(result.outcomes) == len(names)
    refused = [name for name, said in zip(names, result.outcomes, strict=True) if said != "right"]
    changing = {name for name in names if ROWS[name].kind == "change"}
    assert set(refused) <= (set() if convention in ("h5sparse", "anndata", "both") else changing)


def test_numbers_that_hdf5_reads_as_well_are_right(pool):
    plain = sound("A[:]", "sum(0)", source=Source(shape=(9, 7)))
    original = minimise.original(plain)
    at = original.index(sources.matrix_of(plain.source)[0].tobytes())
    result = examine.examine(plain.replace(damage=[["flip", at + 2, 6]]), pool)
    assert (result.honest, result.outcomes, result.findings) == ("slow", ["right", "right"], [])


def test_the_same_seed_gives_the_same_cases():
    first, again, other = ([cases.draw(s, k) for k in range(64)] for s in (3, 3, 4))
    assert first == again
    assert first != other
    assert {case.kind for case in first} == set(cases.KINDS)
    assert [cases.load(case.to_json()) for case in first] == first


def test_what_fails_is_made_smaller(pool, monkeypatch):
    names = ["A[:]", "raw", "A[rows]", "sum"]
    damage = [["company", 0], ["company", 1], ["compact", "data"]]
    case = cases.Case("structures", 0, 0, Source("both", dtype=">f8"), damage, names, "c", True)
    (finding,) = examine.examine(case, pool).findings
    small = minimise.minimise(case, finding, pool)
    assert (small.operations, small.mode, small.together) == (["raw"], "r", False)
    assert len(small.damage) == 1
    assert small.source.shape == (1, 1)
    assert (small.source.convention, small.source.dtype) == ("h5sparse", "f4")


def test_making_smaller():
    assert minimise.shorter(list(range(40)), lambda some: {3, 31} <= set(some)) == [3, 31]
    assert minimise.shorter([1], lambda some: True) == [1]
    raw = bytes(range(100))
    damage = [["byte", 3, 0xFC], ["number", 8, 2, 3]]
    flips = bits.single_bits(raw, damage)
    assert bits.apply(raw, flips) == bits.apply(raw, damage)
    assert {what for what, *_ in flips} == {"flip"}
    assert bits.single_bits(raw, [["cut", 50]]) is None


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (["cut", 4], b"abcd"),
        (["zero", 6, 9], b"abcdef\0\0"),
        (["swap", 0, 4, 2], b"efcdabgh"),
        (["copy", 0, 6, 4], b"abcdefab"),
        (["number", 2, 2, 4], b"ab\xff\xffefgh"),
        (["flip", 0, 1], b"cbcdefgh"),
        (["flip", 20, 1], b"abcdefgh"),
    ],
)
def test_steps_on_bytes(step, expected):
    assert bits.apply(b"abcdefgh", [step]) == expected


def test_only_what_leaves_the_matrix_is_legal():
    assert structures.is_legal([["compact", "data"]])
    assert not structures.is_legal([["entry", "indptr", 0, 0]])
    assert not structures.is_legal([["compact", "data"], ["moved", "data", 1]])


def test_what_was_done_is_counted_and_not_done_again(tmp_path, capsys):
    first = run.campaign(tmp_path, seed=5, minutes=9, kinds=["structures"], most=3)
    assert len(first.done) == 3
    more = run.campaign(tmp_path, seed=5, minutes=9, kinds=["structures"], most=2, resume=True)
    assert len(more.done) == 5
    numbers = [int(name.split(":")[1]) for name in more.done]
    assert numbers == [k for k in range(99) if cases.kind_of(k) == "structures"][:5]
    lines = (tmp_path / "done.jsonl").read_text().splitlines()
    assert [json.loads(line)["case"] for line in lines] == list(more.done)
    table = more.table()
    (row,) = [line.split() for line in table.splitlines() if line.startswith("structures")]
    assert row[1] == "5"
    assert int(row[2]) == sum(sum(said["outcomes"].values()) for said in more.done.values())
    assert Records(tmp_path, resume=True).table() == table
    assert Records(tmp_path, resume=False).done == {}


@pytest.mark.parametrize("number", [5, 10, 15])
def test_trials_run(pool, number):
    case = cases.draw(2, number)
    assert case.kind in ("faults", "interrupts", "kills")
    result = examine.examine(case, pool)
    assert result.findings == []
    assert len(result.outcomes) == 1


def test_what_is_known_is_counted_and_no_news(tmp_path):
    records = Records(tmp_path, resume=False)
    found = [
        Finding("crash", "append", "SIGSEGV in h5d.pyx:write, change", ""),
        Finding("raw", "pickle", "IndexError at plan.py:plan", ""),
    ]
    result = examine.Result(sound("pickle"), ["crash", "raw"], found, "slow")
    records.add(result, 0.1)
    assert records.news() == ["raw: IndexError at plan.py:plan"]
    lines = [line for line in records.table().splitlines() if "pickle" not in line]
    assert "    1 crash: SIGSEGV in h5d.pyx:write, change  (known)" in lines
    assert "    1 raw: IndexError at plan.py:plan" in lines
    for row in LEFTOVERS:
        assert row.hdf5
        assert row.why.endswith(".")


def test_files_that_lead_outside_may_be_refused_when_they_are_written_to(pool):
    damage = [["virtual, sound", "data", 1]]
    case = cases.Case("structures", 0, 0, Source(shape=(9, 7)), damage, ["A[:]", "scale"])
    read = examine.examine(case, pool)
    assert (read.outcomes, read.findings) == (["right", "FormatError"], [])
    written = examine.examine(case.replace(mode="r+"), pool)
    assert (written.outcomes, written.findings) == (["FormatError", "FormatError"], [])
