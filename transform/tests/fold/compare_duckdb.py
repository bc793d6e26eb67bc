"""Runs each mapping's own SQL in DuckDB over the final tables and compares the sums with what the fold delivered."""

import json
import sys
from decimal import Decimal

import duckdb

cases = json.load(open(sys.argv[1], encoding="utf-8"))
compared = 0
for number, case in enumerate(cases):
    database = duckdb.connect()
    for table in case["tables"]:
        columns = ", ".join(f"{name} {kind}" for name, kind in table["columns"])
        database.execute(f"CREATE TABLE {table['name']} ({columns})")
        if table["rows"]:
            places = ", ".join("?" for _ in table["columns"])
            database.executemany(f"INSERT INTO {table['name']} VALUES ({places})", table["rows"])
    rows = database.execute(
        f"SELECT item_id, location_id, sum(on_hand) FROM ({case['sql']}) GROUP BY 1, 2"
    ).fetchall()
    wanted = {(item, place): Decimal(total) for item, place, total in rows}
    found = {(item, place): Decimal(total) for item, place, total in case["sums"]}
    for key in wanted.keys() | found.keys():
        # The last contribution leaves a zero behind.
        if wanted.get(key, Decimal(0)) != found.get(key, Decimal(0)):
            sys.exit(f"case {number}: {key} is {found.get(key)}, DuckDB says {wanted.get(key)}\n{case['sql']}")
    compared += len(wanted)
print(f"{len(cases)} mappings, {compared} sums, no difference")
