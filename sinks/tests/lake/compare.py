"""Reads a lake with delta-rs, DuckDB and, on a server, Polars, and compares every value with what is wanted.

usage: compare.py LAKE WANTED.json OPTIONS.json [optimize]
"""
import importlib
import json
import os
import sys
from pathlib import Path

import duckdb
import duckdb_extension_delta
import polars
import pyarrow as pa
from deltalake import DeltaTable


def described(table):
    """Rows as the test describes them: text per column, null left out, in version order."""
    table = pa.table(table)
    columns = {}
    for name in table.column_names:
        column = table.column(name)
        if pa.types.is_timestamp(column.type):
            assert column.type.unit == "us" and column.type.tz, column.type
            column = column.cast(pa.int64())
        values = column.to_pylist()
        if pa.types.is_boolean(column.type):
            values = [None if v is None else str(v).lower() for v in values]
        elif pa.types.is_decimal(column.type):
            values = [None if v is None else format(v, "f") for v in values]
        columns[name] = [None if v is None else str(v) for v in values]
    rows = [
        {name: values[i] for name, values in columns.items() if values[i] is not None}
        for i in range(table.num_rows)
    ]
    return sorted(rows, key=lambda row: row.get("_version", ""))


def same(reader, path, found, wanted):
    assert len(found) == len(wanted), f"{reader}: {path} has {len(found)} rows, wanted {len(wanted)}"
    for left, right in zip(found, wanted):
        assert left == right, f"{reader}: {path}\nfound  {left}\nwanted {right}"


def duckdb_of(options):
    if options and "extension" not in options:
        return None
    duck = duckdb.connect()
    modules = [duckdb_extension_delta]
    if options:
        modules.append(importlib.import_module(f"duckdb_extension_{options['extension']}"))
    for module in modules:
        name = module.__name__.removeprefix("duckdb_extension_")
        found = list(Path(module.__file__).parent.glob(f"extensions/*/{name}.duckdb_extension"))
        duck.execute(f"load '{found[0]}'")
    if options:
        duck.execute(f"create secret ({options['secret']})")
    duck.execute("set timezone = 'UTC'")
    return duck


def main():
    lake, wanted, options = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), json.loads(Path(sys.argv[3]).read_text())
    storage = options and options["storage"]
    os.environ.update((options or {}).get("environment", {}))
    duck = duckdb_of(options)
    for path, rows in wanted:
        url = f"{lake}/{path}"
        table = DeltaTable(url, storage_options=storage)
        protocol = table.protocol()
        assert (protocol.min_reader_version, protocol.min_writer_version) == (1, 2), protocol
        same("delta-rs", path, described(table.to_pyarrow_table()), rows)
        if options:
            same("Polars", path, described(polars.read_delta(url, storage_options=storage).to_arrow()), rows)
        if duck:
            same("DuckDB", path, described(duck.execute(f"select * from delta_scan('{url}')").to_arrow_table()), rows)
            # A filter on each bounded column must not lose its extremes to wrong statistics.
            for column in ("_version", "_commit_ts", "_valid_from"):
                names = {name for row in rows for name in row}
                if column in names:
                    q = f"select count(*) from delta_scan('{url}') where {column} >= (select min({column}) from delta_scan('{url}')) and {column} <= (select max({column}) from delta_scan('{url}'))"
                    count = duck.execute(q).fetchone()[0]
                    assert count == len(rows), f"DuckDB: {path} filtered by {column}: {count} of {len(rows)}"
        if "optimize" in sys.argv[4:]:
            table.optimize.compact()
    print("equal", flush=True)
    # Past interpreter shutdown: threads of the Arrow runtime abort there now and then, which says nothing of the lake.
    os._exit(0)


if __name__ == "__main__":
    main()
