"""delete_rows.py: deletes rows of a table by merge-on-read, which marks them in files of its own, or has marked rows taken out.

Millrace reads no marks: it refuses the data files that have any until they are rewritten, as --rewrite does.
"""

import argparse

from session import common, session

MODES = ("write.delete.mode", "write.update.mode", "write.merge.mode")


def main():
    parser = common(argparse.ArgumentParser(description=__doc__))
    parser.add_argument("--table", required=True)
    parser.add_argument("--where", help="of the rows to mark, in SQL")
    parser.add_argument("--rewrite", action="store_true", help="takes marked rows out, and has later deletes write files anew")
    arguments = parser.parse_args()
    spark = session("delete rows", arguments)
    table = f"{arguments.namespace}.{arguments.table}"

    def mode(value):
        spark.sql(f"alter table lake.{table} set tblproperties ({', '.join(f'{key!r}={value!r}' for key in MODES)})")

    if arguments.where:
        mode("merge-on-read")
        spark.sql(f"delete from lake.{table} where {arguments.where}")
    if arguments.rewrite:
        mode("copy-on-write")
        # The files with the marks stay, of no row. Iceberg 1.10's rewrite_position_delete_files fails at columns of maps.
        row = spark.sql(f"call lake.system.rewrite_data_files(table => '{table}', options => map('delete-file-threshold', '1'))").first()
        print(f"rewritten={row['rewritten_data_files_count']}")
    print("marks=%d" % spark.sql(f"select count(*) from lake.{table}.delete_files").first()[0])
    spark.stop()


if __name__ == "__main__":
    main()
