"""The result of a study: its rows, and their export."""

from __future__ import annotations

import csv
import io
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from trisect.runtime.atomic_write import write_atomically
from trisect.runtime.errors import EngineMissing, StorageFailed

from ..table_text import csv_cell
from . import summary_tables as tables
from .study_folder import connect, insert, read_folder
from .study_rows import COLUMNS, StudyRow
from .study_spec import StudySpec
from .study_summary import StudySummary, summarise

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Study:
    """A finished study: one row for each run, in the order of the specification."""

    spec: StudySpec
    rows: tuple[StudyRow, ...]
    environment: Mapping[str, Any]
    """Machine, versions, and the origin of strategies and workloads."""

    @classmethod
    def read(cls, folder: str | Path) -> Study:
        """Read a study's folder, finished or not.

        Raises
        ------
        InvalidInput, StorageFailed
            When the folder holds no study, or is damaged.
        """
        spec, rows, about = read_folder(Path(folder))
        return cls(spec, tuple(sorted(rows, key=lambda row: row.key)), about)

    def summary(self) -> StudySummary:
        """Return ratios, intervals, ranks, the performance profile, wins and the rank test."""
        return summarise(self.rows)

    def to_markdown(self) -> str:
        """Return the summary as Markdown tables."""
        return tables.to_markdown(self.summary())

    def to_latex(self) -> str:
        """Return the summary as a LaTeX table (booktabs)."""
        return tables.to_latex(self.summary())

    def to_csv(self, path: str | Path) -> None:
        """Write the rows as CSV; missing values are empty."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        writer.writerow(COLUMNS)
        writer.writerows(map(csv_cell, astuple(row)) for row in self.rows)
        write_atomically(Path(path), text.getvalue().encode())

    def to_sqlite(self, path: str | Path) -> None:
        """Write the rows into a new SQLite file, as the table ``runs``."""
        if Path(path).exists():
            raise StorageFailed(f"{path} already exists", remedy="give another file name")
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        table = connect(Path(path))
        try:
            insert(table, self.rows)
            table.commit()
        except sqlite3.Error as error:
            raise StorageFailed(f"{path} cannot be written: {error}") from error
        finally:
            table.close()

    def to_parquet(self, path: str | Path) -> None:
        """Write the rows as Parquet.

        Raises
        ------
        EngineMissing
            When pyarrow is not installed.
        """
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise EngineMissing("Parquet files need pyarrow", remedy="pip install 'trisect[study]'") from None
        kinds = {int: pyarrow.int64(), float: pyarrow.float64(), float | None: pyarrow.float64()}
        hints = get_type_hints(StudyRow)
        schema = pyarrow.schema([(name, kinds.get(hints[name], pyarrow.string())) for name in COLUMNS])
        sink = pyarrow.BufferOutputStream()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([asdict(row) for row in self.rows], schema), sink)
        write_atomically(Path(path), sink.getvalue().to_pybytes())

    def to_pandas(self) -> pandas.DataFrame:
        """Return the rows as a data frame.

        Raises
        ------
        EngineMissing
            When pandas is not installed.
        """
        try:
            import pandas
        except ImportError:
            raise EngineMissing("data frames need pandas", remedy="pip install pandas") from None
        return pandas.DataFrame([asdict(row) for row in self.rows], columns=list(COLUMNS))
