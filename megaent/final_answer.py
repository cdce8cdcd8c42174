"""The former home of ``read_key``."""

from megaent.answers.key import read_key as read_key
