"""lake.py TYPE SCHEMA TABLE: reads an Iceberg table of a hadoop catalog (its folder) with pyiceberg.

SCHEMA is the type's Avro schema, for the kinds of its fields. Prints, for each row: type, id, its fingerprint, and the one it
carries. A row that has none of loadgen's is left out.
"""

import datetime
import json
import pathlib
import sys
import uuid

import pyarrow
from pyiceberg.table import StaticTable

from fingerprint import HASH_ATTRIBUTE, fingerprint, kinds
from tables import newest


def plain(column):
    """A column as plain Python values: timestamps as microseconds."""
    if pyarrow.types.is_timestamp(column.type):
        if column.type.unit != "us" or column.type.tz != "UTC":
            sys.exit(f"a timestamp column is {column.type}: want microseconds in UTC")
        return column.cast(pyarrow.int64()).to_pylist()
    return [text(value) for value in column.to_pylist()]


def text(value):
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        sys.exit("a timestamp came as datetime")
    if isinstance(value, list):
        return dict(value)
    return value


def main(name, schema_file, table):
    field_kinds = kinds(json.loads(pathlib.Path(schema_file).read_text()))
    iceberg = StaticTable.from_metadata(newest(table))
    for batch in iceberg.scan().to_arrow_batch_reader():
        columns = {name: plain(batch.column(name)) for name in batch.schema.names}
        for i in range(batch.num_rows):
            record = {name: values[i] for name, values in columns.items()}
            if isinstance(record["id"], bytes):
                record["id"] = str(uuid.UUID(bytes=record["id"]))
            said = record["attributes"].get(HASH_ATTRIBUTE)
            if said is not None:
                print(name, record["id"], fingerprint(field_kinds, record), said)


if __name__ == "__main__":
    main(*sys.argv[1:])
