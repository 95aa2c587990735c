"""The store in a database, by SQLAlchemy Core.

``store`` opens it and hands out transactions, ``transaction`` is one, ``saving`` writes what changed of a
record, ``coding`` turns rows into structs and back, ``migrations`` define the tables, ``tables`` names their
columns. What only SQLite understands is in ``sqlite``.
"""
