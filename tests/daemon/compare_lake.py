"""Compares the lake with the planner's SQLite file: python compare_lake.py LAKE PLANNER_DB.

Read with delta-rs for Python, which shares no code with the writer but the protocol's Rust core, and compared as exact
decimals, dates and instants. Exit code 1 and one line per difference where they disagree."""

import datetime
import decimal
import json
import os
import sqlite3
import sys

import deltalake

SYSTEM = ("_version", "_source_system", "_source_table", "_source_pos", "_commit_ts")


def plain(value):
    """A value as the planner's JSON would hold it."""
    if isinstance(value, decimal.Decimal):
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).isoformat()
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value


def wire(value, like):
    """A value of the planner's JSON in the same form."""
    if isinstance(like, decimal.Decimal) and value is not None:
        return plain(decimal.Decimal(value))
    if isinstance(like, datetime.datetime) and value is not None:
        return datetime.datetime.fromisoformat(value.replace("Z", "+00:00")).isoformat()
    return value


def compare(lake, entity, held):
    rows = deltalake.DeltaTable(f"{lake}/current/{entity}").to_pyarrow_table().to_pylist()
    differences = []
    seen = set()
    for row in rows:
        version = row["_version"]
        if version in seen:
            differences.append(f"{entity}: version {version} stands twice in current")
        seen.add(version)
        wanted = held.pop(version, None)
        if wanted is None:
            differences.append(f"{entity}: version {version} is not at the planner")
            continue
        key, data = wanted
        fields = [name for name in row if name not in SYSTEM]
        for name, value in zip(fields, key):
            if plain(row[name]) != wire(value, row[name]):
                differences.append(f"{entity}: version {version}: key field {name} differs")
        for name in fields[len(key) :]:
            if plain(row[name]) != wire(data.get(name), row[name]):
                differences.append(f"{entity}: version {version}: {name} differs")
    differences.extend(f"{entity}: version {version} is not in the lake" for version in held)
    history = deltalake.DeltaTable(f"{lake}/history/{entity}").to_pyarrow_table(columns=["_version"])
    versions = history["_version"].to_pylist()
    if len(versions) != len(set(versions)):
        differences.append(f"{entity}: {len(versions) - len(set(versions))} versions stand twice in history")
    if not seen <= set(versions):
        differences.append(f"{entity}: current has versions that history lacks")
    print(f"{entity}: {len(rows)} rows, {len(versions)} versions, {len(differences)} differences")
    return differences


def planner_rows(db, entity):
    """Live rows by version: the key's values in the order of the entity's fields, and the other fields by name."""
    held = {}
    rows = db.execute(
        "SELECT key, records.version, data FROM records JOIN flows ON flows.id = flow"
        " WHERE name = ? AND data IS NOT NULL",
        (entity,),
    )
    for key, version, data in rows:
        version = version.hex() if isinstance(version, bytes) else version
        held[version] = (json.loads(key), json.loads(data))
    return held


def main():
    lake, path = sys.argv[1:]
    db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    differences = []
    for entity in sorted(os.listdir(f"{lake}/current")):
        differences += compare(lake, entity, planner_rows(db, entity))
    print("\n".join(differences[:50]))
    sys.stdout.flush()
    # Past interpreter shutdown: threads of the Arrow runtime abort there now and then, which says nothing of the lake.
    os._exit(1 if differences else 0)


main()
