"""A row survives the file, and no accident to the file is silent."""

import msgspec
import pytest

from reproduce.errors import UserError
from reproduce.plan import Case, cases
from reproduce.results.rows import VERSION, Row, RowsFile, read_rows


def row(**changes):
    fields = msgspec.structs.asdict(cases("smoke")[0]) | {
        "status": "done",
        "device": "a device",
        "seconds": (0.1, 0.2),
        "memory_bytes": {"a_counter": 3},
        "gradient_seconds": (0.05, 0.1),
        "environment": {"identity": {"packages": {"jax": "1"}}},
        "code_hash": "abc",
        "started": "2026-01-01T00:00:00+00:00",
    }
    return Row(**(fields | changes))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "rows.jsonl"


def append(path, *rows):
    file = RowsFile(path)
    for each in rows:
        file.append([each])
    file.close()
    return file


def test_rows_come_back_as_they_were_written(path):
    written = [row(), row(status="out_of_memory", reason="too large", seconds=())]
    append(path, written[0])
    append(path, written[1])
    assert read_rows(path) == written


def test_a_row_names_its_case():
    case = cases("cpu")[3]
    assert row(**msgspec.structs.asdict(case)).case == case
    assert type(row().case) is Case


def test_a_row_knows_its_machine_also_where_all_of_it_stood_in_the_identity():
    older = {"identity": {"device": "a GPU", "python": "3.11.7", "driver": "570"}}
    newer = {
        "identity": {"device": "a GPU", "python": "3.11"},
        "state": {"load": 0.5, "machine": {"python": "3.11.7", "driver": "570"}},
    }
    assert row(environment=older).facts == row(environment=newer).facts == older["identity"]
    assert row(environment={}).facts == {}


def test_no_file_is_no_rows(path):
    assert read_rows(path) == []


def test_a_half_written_last_row_is_set_aside_and_the_others_stay(path):
    append(path, row(), row())
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"plan":"smo')
    assert len(read_rows(path)) == 2
    file = append(path, row(model="third"))
    assert file.set_aside.read_bytes() == b'{"plan":"smo\n'
    assert path.read_bytes().startswith(whole)
    assert [each.model for each in read_rows(path)][2:] == ["third"]


def test_a_row_of_another_version_is_refused_with_its_place(path):
    append(path, row(), row(version=VERSION + 1))
    with pytest.raises(
        UserError, match=f"line 2: a row of version {VERSION + 1} .* reads {VERSION}"
    ):
        read_rows(path)


@pytest.mark.parametrize("line", [b"not json", b"[]", b'{"version": 1, "status": "finished"}'])
def test_a_line_that_is_no_row_is_refused_with_its_place(path, line):
    path.write_bytes(line + b"\n")
    with pytest.raises(UserError, match="line 1: expected a row"):
        read_rows(path)


def test_a_status_outside_the_closed_set_is_refused(path):
    path.write_bytes(msgspec.json.encode(row(status="fine")) + b"\n")
    with pytest.raises(UserError, match="fine"):
        read_rows(path)
