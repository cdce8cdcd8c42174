"""What sampled answers say of a model.

``sampled`` asks a run's present policy. The others serve ``megaent evaluate``: ``generate`` and
``response_file`` draw and keep, ``estimators``, ``paired`` and ``efficiency`` are the mathematics, ``report``
and ``table`` what a person is told. May import loop and what lies below; ``run`` and ``commands`` import it.
"""
