"""From words to a typed configuration: Hydra composes, the families' options type, mistakes are explained.

May import the registries (data, run, methods); only ``commands`` imports it.
"""
