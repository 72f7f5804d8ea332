"""usage_report.py: what each tenant has consumed of what, per day, from the lake. Bills are made from it.

Each event counts once: a repeat is the same id and time, whether compaction has removed it yet or not.
"""

import argparse

from session import common, session, show


def report(spark, table, begin, end):
    """One row per tenant, resource, unit and day: the sum of quantity and the number of events. end is not part of it."""
    spark.table(table).where(f"time >= timestamp'{begin}' and time < timestamp'{end}'").createOrReplaceTempView("period")
    return spark.sql(
        """
        with once as (
          select *, row_number() over (partition by id, time order by _appended_at, _topic, _topic_partition, _offset) as copy
          from period
        )
        select tenant, resource, unit, date_trunc('day', time) as day, sum(cast(quantity as decimal(38, 0))) as quantity, count(*) as events
        from once where copy = 1
        group by tenant, resource, unit, date_trunc('day', time)
        order by tenant, resource, unit nulls last, day
        """
    )


def main():
    parser = common(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--from", dest="begin", required=True, help="2026-03-01 or 2026-03-01 12:00:00, UTC")
    parser.add_argument("--to", dest="end", required=True, help="not part of the period")
    arguments = parser.parse_args()
    spark = session("usage report", arguments)
    show(report(spark, f"lake.{arguments.namespace}.usage", arguments.begin, arguments.end))
    spark.stop()


if __name__ == "__main__":
    main()
