"""Report of a plan or a run: charts, tables and one self-contained page."""
