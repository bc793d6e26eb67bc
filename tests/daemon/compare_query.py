"""Compares answers of `syncline query` with the lake: python compare_query.py LAKE FOLDER.

FOLDER holds, by table, TABLE.json, TABLE.csv and TABLE.parquet with all rows of current/TABLE. They are compared with what
delta-rs for Python reads, as exact decimals, dates and instants. Exit code 1 and one line per difference where they disagree."""

import csv
import datetime
import decimal
import json
import pathlib
import sys

import deltalake
import pyarrow.parquet


def text(value):
    """A value in one form, whatever it was written in."""
    if value is None:
        return ""
    if isinstance(value, decimal.Decimal):
        return str(value.normalize() + 0)
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


def like(told, wanted):
    """A value of a text format as the type of the one that is wanted."""
    if not isinstance(told, (str, int, decimal.Decimal)) or told == "" or wanted is None:
        return told
    if isinstance(wanted, decimal.Decimal):
        return decimal.Decimal(told)
    if isinstance(wanted, datetime.datetime):
        return datetime.datetime.fromisoformat(told.replace("Z", "+00:00"))
    return told


def by_version(rows):
    return {row["_version"]: row for row in rows}


def differences(name, told, wanted):
    told, wanted = by_version(told), by_version(wanted)
    if told.keys() != wanted.keys():
        yield f"{name}: {len(told)} rows are told, {len(wanted)} are there"
    for version in told.keys() & wanted.keys():
        for column, value in wanted[version].items():
            if text(like(told[version][column], value)) != text(value):
                yield f"{name}: version {version}: {column} is {value!r} and told as {told[version][column]!r}"


def main(lake, folder):
    found = []
    for path in sorted(folder.glob("*.json")):
        table = path.stem
        wanted = deltalake.DeltaTable(f"{lake}/current/{table}").to_pyarrow_table()
        rows = wanted.to_pylist()
        told = json.loads(path.read_text(), parse_float=decimal.Decimal)
        found.extend(differences(path.name, told, rows))
        with open(path.with_suffix(".csv"), newline="") as file:
            found.extend(differences(f"{table}.csv", list(csv.DictReader(file)), rows))
        copy = pyarrow.parquet.read_table(path.with_suffix(".parquet"))
        types = [(field.name, field.type) for field in copy.schema], [(field.name, field.type) for field in wanted.schema]
        if types[0] != types[1]:
            found.append(f"{table}.parquet: {types[0]} is not {types[1]}")
        found.extend(differences(f"{table}.parquet", copy.to_pylist(), rows))
        print(f"{table}: {len(rows)} rows")
    print(*found[:50], sep="\n")
    return 1 if found else 0


sys.exit(main(sys.argv[1], pathlib.Path(sys.argv[2])))
