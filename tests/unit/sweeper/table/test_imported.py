import dataclasses

import numpy as np
import pandas as pd
import pytest

from sweeper.errors import DiskError, SweeperError, TableError
from sweeper.table import Import, add_imported, imported_rows, imports, joined, losses, read_table, remove_import

ORIGIN = Import(number=0, source="runs.csv", sha256="00", mapping=(("tokens", "D*1e9"),), rows=0)
ROWS = pd.DataFrame({"name": ["a", "b"], "lr": [0.1, 0.2], "loss": [2.0, 2.1], "tokens": [1e9, 1e9]})


def test_rows_come_back_with_where_they_came_from(tmp_path):
    kept, new = add_imported(tmp_path, ROWS, ORIGIN)
    assert new
    assert imports(tmp_path) == (kept,) == (dataclasses.replace(ORIGIN, number=1, rows=2),)
    pd.testing.assert_frame_equal(imported_rows(tmp_path), ROWS)
    assert sorted(path.name for path in (tmp_path / "imported").iterdir()) == ["1.parquet"]


def test_the_same_content_with_the_same_mapping_is_kept_once(tmp_path):
    first, _ = add_imported(tmp_path, ROWS, ORIGIN)
    assert add_imported(tmp_path, ROWS, dataclasses.replace(ORIGIN, source="copy.csv")) == (first, False)
    other, new = add_imported(tmp_path, ROWS, dataclasses.replace(ORIGIN, where="lr > 0"))
    assert (other.number, new) == (2, True)


def test_imports_are_removed_by_number_and_numbers_are_not_given_twice(tmp_path):
    for name in ("1", "2", "3"):
        add_imported(tmp_path, ROWS, dataclasses.replace(ORIGIN, sha256=name))
    assert remove_import(tmp_path, 2).sha256 == "2"
    assert [found.number for found in imports(tmp_path)] == [1, 3]
    assert add_imported(tmp_path, ROWS, ORIGIN)[0].number == 4
    with pytest.raises(TableError, match="no import 2; there are 1, 3, 4"):
        remove_import(tmp_path, 2)


def test_nothing_imported_is_a_table_without_rows(tmp_path):
    assert imported_rows(tmp_path).empty
    assert imports(tmp_path) == ()
    with pytest.raises(TableError, match="nothing is imported"):
        remove_import(tmp_path, 1)


def test_a_row_without_a_name_is_called_by_its_place_in_the_file(tmp_path):
    add_imported(tmp_path, ROWS.drop(columns="name").iloc[1:], ORIGIN)
    assert imported_rows(tmp_path).imported_from.tolist() == ["runs.csv row 3"]


def test_any_cell_can_be_kept(tmp_path):
    rows = pd.DataFrame({"lr": [0.1, 0.2], "mixed": ["x", 2], "huge": [10**400, None], "flag": [True, None]})
    add_imported(tmp_path, rows, ORIGIN)
    kept = imported_rows(tmp_path)
    assert kept.mixed.tolist() == ["x", "2"]
    assert len(kept) == 2


def test_a_foreign_file_in_the_folder_is_named(tmp_path):
    (tmp_path / "imported").mkdir()
    ROWS.to_parquet(tmp_path / "imported" / "1.parquet")
    with pytest.raises(SweeperError, match=r"1\.parquet: not an import"):
        imports(tmp_path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "imported").write_text("a file")
    with pytest.raises(DiskError, match="cannot be written"):
        add_imported(tmp_path, ROWS, ORIGIN)


OWN = pd.DataFrame({"run_id": ["x"], "arm": ["base"], "lr": [0.01], "lr_peak": [0.02], "loss": [2.5], "flops": [None]})


def test_foreign_rows_are_an_arm_of_their_own_and_their_rate_is_the_peak_rate():
    both = joined(OWN, ROWS.assign(flops=[1e18, 2e18]))
    assert both.arm.tolist() == ["base", "imported", "imported"]
    assert both.lr_peak.tolist() == [0.02, 0.1, 0.2]
    assert np.isnan(both.flops[0])
    assert both.flops.dtype == float
    assert losses(both, ("arm",)).reasons() == {}


def test_foreign_rows_keep_the_arm_and_the_peak_rate_that_they_have():
    both = joined(OWN, ROWS.assign(arm=["base", None], lr_peak=[0.5, None]))
    assert both.arm.tolist() == ["base", "base", "imported"]
    assert both.lr_peak.tolist() == [0.02, 0.5, 0.2]


def test_foreign_rows_alone_have_the_columns_of_results():
    assert list(joined(OWN.iloc[:0], ROWS).columns) == [*OWN.columns, "name", "tokens"]


def test_an_import_is_a_table_like_any_other(tmp_path):
    add_imported(tmp_path, ROWS, ORIGIN)
    assert read_table(tmp_path / "imported" / "1.parquet").lr.tolist() == [0.1, 0.2]
