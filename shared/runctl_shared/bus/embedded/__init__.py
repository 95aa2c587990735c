"""The bus for one machine: a SQLite file, no server, nothing to install.

``store`` keeps messages in tables, ``doors`` wakes the processes that wait and notices those that died,
``session`` is one opening of the file, ``engine`` the thread that does all work, ``bus`` what callers see.
"""
