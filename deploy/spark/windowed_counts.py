"""windowed_counts.py: operations and their mean duration per service and minute of event time, from the topic itself.

Records are Avro in the Confluent wire format: a zero byte, the schema's id, the record. Every version that the subject has when
the job starts is decoded, into the newest one; a record of a later version ends the job, which then is to be started again.
"""

import argparse
import json
import urllib.request

from pyspark.sql import functions as F
from pyspark.sql.avro.functions import from_avro

from session import common, session, show


def schemas(registry, subject):
    """Gives the subject's schemas by id, and the newest. The registry may give one schema under several versions."""

    def get(path):
        with urllib.request.urlopen(registry.rstrip("/") + path, timeout=30) as answer:
            return json.load(answer)

    by_id, newest = {}, None
    for version in get(f"/subjects/{subject}/versions"):
        found = get(f"/subjects/{subject}/versions/{version}")
        by_id[found["id"]] = newest = found["schema"]
    return by_id, newest


def decoded(value, by_id, newest):
    """Decodes a column of wire-format bytes: each record by the schema that it was written with."""
    schema_id = F.conv(F.hex(F.substring(value, 2, 4)), 16, 10).cast("long")
    body = F.expr("substring(value, 6, length(value) - 5)")
    record = None
    for number, schema in by_id.items():
        one = from_avro(body, schema, {"avroSchema": newest, "mode": "FAILFAST"})
        record = F.when(schema_id == number, one) if record is None else record.when(schema_id == number, one)
    unknown = F.raise_error(F.concat(F.lit("no schema with the id "), schema_id.cast("string"), F.lit(" when the job started: start it again")))
    return record.otherwise(unknown)


def windows(events, late):
    """Counts per service and minute. What comes later than the watermark allows is not counted."""
    return (
        events.withWatermark("time", late)
        .groupBy("service", F.window("time", "1 minute").alias("minute"))
        .agg(F.count("*").alias("operations"), F.sum(F.col("duration_us").cast("decimal(38, 0)")).alias("microseconds"))
        .select("service", F.col("minute.start").alias("minute"), "operations", "microseconds")
    )


def main():
    parser = common(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--registry", required=True, help="URL with the Confluent API")
    parser.add_argument("--topic", default="millrace.performance")
    parser.add_argument("--late", default="10 minutes", help="how late an event may be")
    parser.add_argument("--checkpoint", help="folder in which the job keeps where it is; without one it begins at the topic's start")
    parser.add_argument("--once", action="store_true", help="count what is there now, print it and end")
    arguments = parser.parse_args()
    spark = session("windowed counts", arguments)
    by_id, newest = schemas(arguments.registry, arguments.topic + "-value")
    raw = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", arguments.brokers)
        .option("subscribe", arguments.topic)
        .option("startingOffsets", "earliest")
        .option("kafka.isolation.level", "read_committed")
        .option("failOnDataLoss", "true")
        .load()
    )
    events = raw.where("value is not null").select(decoded(F.col("value"), by_id, newest).alias("event")).select("event.*")
    counts = windows(events, arguments.late)
    if arguments.once:
        query = counts.writeStream.outputMode("complete").format("memory").queryName("counts").trigger(availableNow=True).start()
        query.awaitTermination()
        show(spark.sql("select * from counts order by service, minute"))
    else:
        out = counts.writeStream.outputMode("update").format("console").option("truncate", "false").trigger(processingTime="10 seconds")
        if arguments.checkpoint:
            out = out.option("checkpointLocation", arguments.checkpoint)
        out.start().awaitTermination()
    spark.stop()


if __name__ == "__main__":
    main()
