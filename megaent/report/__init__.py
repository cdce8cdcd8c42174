"""What people look at: metrics written and read, curves, comparisons, reports, tables of sweeps, progress.

May import ``durable`` and ``errors``; it reads run directories and knows nothing of who wrote them.
"""
