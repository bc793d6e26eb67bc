"""Runs the recipes of docs/query.md as they stand there, and compares every value of their answers.

usage: query.py QUERY.md LAKE WANTED.json
"""
import ast
import json
import os
import re
import sys
from pathlib import Path

import duckdb
import duckdb_extension_delta
import pyarrow as pa

import compare


def recipes(page):
    found = re.findall(r"<!-- recipe: (\S+) -->\n```(sql|python)\n(.*?)```", page, re.DOTALL)
    return {name: (language, code) for name, language, code in found}


def ask_duckdb(code):
    duck = duckdb.connect()
    extension = list(Path(duckdb_extension_delta.__file__).parent.glob("extensions/*/delta.duckdb_extension"))
    duck.execute(f"load '{extension[0]}'")
    duck.execute("set timezone = 'UTC'")
    return duck.execute(code).to_arrow_table()


def ask_python(code):
    """The value of the last expression, as a notebook would show it."""
    *body, last = ast.parse(code).body
    names = {}
    exec(compile(ast.Module(body, []), "recipe", "exec"), names)
    answer = eval(compile(ast.Expression(last.value), "recipe", "eval"), names)
    if type(answer).__module__.startswith("polars"):
        return answer.to_arrow()
    return pa.Table.from_pandas(answer, preserve_index=False)


def plain(table):
    """Other spellings of the same types."""
    fields = []
    for field in table.schema:
        kind = field.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        if pa.types.is_timestamp(kind):
            kind = pa.timestamp("us", "UTC")
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields))


def in_order(rows):
    return sorted(rows, key=lambda row: sorted(row.items()))


def main():
    page, lake, wanted = Path(sys.argv[1]).read_text(), sys.argv[2], json.loads(Path(sys.argv[3]).read_text())
    found = recipes(page)
    assert found.keys() == wanted.keys(), (sorted(found), sorted(wanted))
    for name, (language, code) in found.items():
        code = code.replace("/srv/lake", lake)
        answer = ask_duckdb(code) if language == "sql" else ask_python(code)
        rows = in_order(compare.described(plain(answer)))
        compare.same(name, "docs/query.md", rows, in_order(wanted[name]))
        print(f"{name}: {len(rows)} rows")
    sys.stdout.flush()
    os._exit(0)


main()
