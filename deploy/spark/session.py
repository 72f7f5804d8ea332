"""What both jobs and the upkeep share: a Spark session that knows the lake as the catalog `lake`, and what they print."""

import datetime
import pathlib
import sys

from pyspark.sql import SparkSession


def session(name, arguments):
    """Makes a session. arguments.jars is the folder of the connectors, arguments.warehouse the lake's."""
    jars = sorted(str(jar) for jar in pathlib.Path(arguments.jars).glob("*.jar"))
    if not jars:
        sys.exit(f"{arguments.jars} holds no jars: `make test-spark` and deploy/spark/README.md say where they come from")
    return (
        SparkSession.builder.appName(name)
        .master(arguments.master)
        .config("spark.jars", ",".join(jars))
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.shuffle.partitions", arguments.shuffle)
        .config("spark.sql.extensions", "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions")
        .config("spark.sql.catalog.lake", "org.apache.iceberg.spark.SparkCatalog")
        .config("spark.sql.catalog.lake.type", "hadoop")
        .config("spark.sql.catalog.lake.warehouse", arguments.warehouse)
        .getOrCreate()
    )


def common(parser):
    parser.add_argument("--warehouse", required=True, help="folder of the lake: lake.warehouse of Millrace's configuration")
    parser.add_argument("--namespace", default="millrace", help="lake.namespace of Millrace's configuration")
    parser.add_argument("--jars", required=True, help="folder with the connectors")
    parser.add_argument("--master", default="local[2]")
    parser.add_argument("--shuffle", type=int, default=4, help="partitions of a shuffle: few for a small lake")
    return parser


def show(frame):
    """Prints rows as CSV, as `millrace sql` does: times in UTC as 2026-03-01T00:00:00Z, null as nothing, no text as ""."""
    print(",".join(frame.columns))
    for row in frame.collect():
        print(",".join(cell(value) for value in row))


def cell(value):
    if value is None:
        return ""
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%dT%H:%M:%SZ")
    text = str(value)
    if text == "" or text[0].isspace() or any(character in text for character in ',"\n\r'):
        return '"' + text.replace('"', '""') + '"'
    return text
