"""The rows of benches/lake through write_deltalake and merge: python lake.py FOLDER KEY...

Each phase has a process of its own, whose peak memory is its own; ours holds all phases in one."""

import json
import os
import resource
import subprocess
import sys
import time

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

PHASES = ["append", "merge-1-spread", "merge-1-near", "merge-10-spread", "merge-10-near"]


def written(table):
    """Bytes of the files that the last commit added."""
    path = f"{table}/_delta_log/{DeltaTable(table).version():020}.json"
    actions = [json.loads(line) for line in open(path)]
    return sum(action["add"]["size"] for action in actions if "add" in action)


def phase(folder, name, key):
    file, table = f"{folder}/{name}.arrows", f"{folder}/python"
    begun = time.monotonic()
    with pa.OSFile(file) as source, pa.ipc.open_stream(source) as rows:
        count = 0

        def counted():
            nonlocal count
            for batch in rows:
                count += batch.num_rows
                yield batch

        reader = pa.RecordBatchReader.from_batches(rows.schema, counted())
        if name == "append":
            write_deltalake(table, reader, mode="append")
        else:
            on = " AND ".join(f"t.{column} = s.{column}" for column in key)
            merge = DeltaTable(table).merge(reader, predicate=on, source_alias="s", target_alias="t")
            merge.when_matched_update_all().when_not_matched_insert_all().execute()
    seconds = time.monotonic() - begun
    size, changed = written(table), os.path.getsize(file)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"python {name},{count},{count / seconds:.0f},{size},{size / changed:.1f},{peak}", flush=True)
    os._exit(0)


if len(sys.argv) > 2 and sys.argv[2] in PHASES:
    phase(sys.argv[1], sys.argv[2], sys.argv[3:])
for name in PHASES:
    subprocess.run([sys.executable, __file__, sys.argv[1], name, *sys.argv[2:]], check=True)
