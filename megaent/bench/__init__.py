"""Speed and memory of the ops on this machine: ``megaent bench``. Correctness first, then medians.

``shapes.py`` the sizes by name, ``paths.py`` what is asked, ``problems.py`` inputs, ``correctness.py`` the
truth in fp64; ``ours.py``, ``usual.py`` and ``peers.py`` who is measured; ``measure.py`` clocks and memory,
``case.py`` one size, one type, one pass; ``record.py`` what is kept, ``table.py`` what is shown,
``command.py`` the command line.
"""
