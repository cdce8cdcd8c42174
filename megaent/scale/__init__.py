"""How a step grows: measured on this machine, planned for cards, and simulated for a fleet, in one report.

    series    which runs are measured: one thing varied at a time
    point     one of them, run for a few steps in processes of its own
    collectives every exchange of a process, by kind; ``counted`` is the command with them counted
    processes a module in one process or several, with a limit
    here      how fast this machine multiplies, copies and exchanges, for the plan's lines
    planned   what the plan says of a measured point, and of models on cards
    simulated throughput of a fleet against staleness, cards and their split
    study     all of it as one JSON file that grows, so that a command that was cut goes on
    page      the same as HTML

``commands`` asks it; it may import ``plan``, ``small_models``, ``report`` and what lies below them.
"""
