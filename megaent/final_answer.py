"""Answer keys and answers for those who grade without a run: the public names of ``megaent.answers``.

``read_key(value)`` is the key in a data set's field; ``make_reward("math")`` (megaent.reward) grades by it.
"""

from megaent.answers.key import read_key

__all__ = ["read_key"]
