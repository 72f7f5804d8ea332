"""topics.py BROKERS REGISTRY TOPIC...: reads whole topics with kafka-python and fastavro.

Prints, for each record: type, id, its fingerprint, and the one it carries. A record that has none of loadgen's is left
out. Schemas come from the registry by the id in each record.
"""

import io
import json
import struct
import sys
import urllib.request

import fastavro
from kafka import KafkaConsumer, TopicPartition

from fingerprint import HASH_ATTRIBUTE, fingerprint, kinds


def plain(node):
    """The schema without logical types: microseconds stay numbers and a uuid stays text, whatever a library makes of them."""
    if isinstance(node, dict):
        return {k: plain(v) for k, v in node.items() if k != "logicalType"}
    if isinstance(node, list):
        return [plain(v) for v in node]
    return node


class Schemas:
    def __init__(self, registry):
        self.registry = registry
        self.known = {}

    def get(self, schema_id):
        if schema_id not in self.known:
            with urllib.request.urlopen(f"{self.registry}/schemas/ids/{schema_id}", timeout=30) as answer:
                schema = plain(json.loads(json.load(answer)["schema"]))
            self.known[schema_id] = (fastavro.parse_schema(schema), kinds(schema))
        return self.known[schema_id]


def read(consumer, topic, schemas):
    partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    waiting = {p for p in partitions if consumer.position(p) < ends[p]}
    while waiting:
        for partition, records in consumer.poll(timeout_ms=1000, max_records=5000).items():
            for record in records:
                if record.value is not None:
                    show(topic, record.value, schemas)
        waiting = {p for p in waiting if consumer.position(p) < ends[p]}


def show(topic, value, schemas):
    magic, schema_id = struct.unpack(">bI", value[:5])
    if magic != 0:
        sys.exit(f"{topic}: a record's first byte is {magic}")
    schema, field_kinds = schemas.get(schema_id)
    body = io.BytesIO(value[5:])
    record = fastavro.schemaless_reader(body, schema, None)
    if body.read(1):
        sys.exit(f"{topic}: {record['id']}: bytes are left over")
    said = record["attributes"].get(HASH_ATTRIBUTE)
    if said is not None:
        print(topic.removeprefix("millrace."), record["id"], fingerprint(field_kinds, record), said)


def main(brokers, registry, *topics):
    consumer = KafkaConsumer(bootstrap_servers=brokers.split(","), enable_auto_commit=False, group_id=None)
    schemas = Schemas(registry)
    for topic in topics:
        read(consumer, topic, schemas)
    consumer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
