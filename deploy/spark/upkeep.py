"""upkeep.py: has Spark rewrite small files and expire snapshots of a table, again and again, while Millrace writes to it.

It stands for any other engine's maintenance; `millrace lake` has its own. Prints what each round did. A round that loses to
Millrace's writer is told and counted; it has changed nothing.
"""

import argparse
import datetime
import time

from session import common, session


def main():
    parser = common(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--table", required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--pause", type=float, default=1, help="seconds between rounds")
    arguments = parser.parse_args()
    spark = session("upkeep", arguments)
    table = f"{arguments.namespace}.{arguments.table}"
    rewritten = lost = expired = 0
    for _ in range(arguments.rounds):
        try:
            row = spark.sql(f"call lake.system.rewrite_data_files(table => '{table}', options => map('min-input-files', '2'))").first()
            rewritten += row["rewritten_data_files_count"]
        except Exception as error:  # of Java, by py4j: all of one type
            if "CommitFailed" not in str(error) and "conflict" not in str(error).lower():
                raise
            lost += 1
        now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
        try:
            row = spark.sql(f"call lake.system.expire_snapshots(table => '{table}', older_than => timestamp '{now}', retain_last => 2)").first()
            expired += row["deleted_manifest_lists_count"]
        except Exception as error:
            if "CommitFailed" not in str(error):
                raise
            lost += 1
        time.sleep(arguments.pause)
    print(f"rewritten={rewritten} expired={expired} lost={lost}")
    spark.stop()


if __name__ == "__main__":
    main()
