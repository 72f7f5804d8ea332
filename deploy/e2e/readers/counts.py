"""counts.py WAREHOUSE NAMESPACE TABLE: how pyiceberg and DuckDB read a table of a hadoop catalog, as JSON of both.

Each gives the number of rows, of distinct ids, and a checksum over the ids that does not depend on their order.
"""

import hashlib
import json
import pathlib
import sys

import duckdb
from pyiceberg.table import StaticTable

from tables import newest


def summed(ids):
    total = rows = 0
    seen = set()
    for one in ids:
        rows += 1
        seen.add(one)
        total += int.from_bytes(hashlib.md5(str(one).encode()).digest()[:8], "big")
    return {"rows": rows, "ids": len(seen), "checksum": f"{total % 2**64:016x}"}


def main(warehouse, namespace, name):
    table = StaticTable.from_metadata(newest(pathlib.Path(warehouse) / namespace / name))
    scan = table.scan(selected_fields=("id",))
    by_iceberg = summed(one for batch in scan.to_arrow_batch_reader() for one in batch.column("id").to_pylist())
    files = [task.file.file_path.removeprefix("file://") for task in scan.plan_files()]
    if any(task.delete_files for task in scan.plan_files()):
        sys.exit(f"{name} has delete files, which DuckDB's reader of Parquet would ignore")
    rows = duckdb.sql("select id from read_parquet($1)", params=[files]).fetchall() if files else []
    print(json.dumps({"pyiceberg": by_iceberg, "duckdb": summed(row[0] for row in rows)}))


main(*sys.argv[1:])
