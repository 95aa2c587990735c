"""Why a run is in the state that it is in: from its record to sentences. Pure.

``said`` is what a sentence is, ``history`` tells how it came here, ``waits`` what is waited for and what the
user can do, ``whole`` puts them together. Every state and every reason has its row in a table;
tests/unit/test_explain.py goes through the life-cycles, so that none can be forgotten.
"""
