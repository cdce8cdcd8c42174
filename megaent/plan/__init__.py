"""What a step will need and take, before a machine is rented: memory of the fullest rank and time in parts.

    shape        a model's sizes                 shapes       the named ones, or a Hugging Face folder
    cluster      cards and links, from YAML      constants    every number that is not on a data sheet
    layout       who holds what                  parameters   counts of a rank, exact
    machine      seconds of one operation or exchange        work   what a training step is given to do
    training     a training step                 memory       bytes of the fullest rank
    lengths      how long responses are          generation   prefill, decode and its tail
    step         a step of reinforcement learning             search   every layout that divides
    candidates   what fits, what does not, the best beside each other
    question     key=value words, typed          answer       the same as text and as JSON
    series       a line for each value of a key  start        the words that start what was planned
    measured     constants from a bench's report             rows     published measurements as questions
    fleet        engines, trainer and failures, event by event         simulated    the fleet of a plan

Nothing here needs torch. ``commands`` and ``scale`` ask it; it may import ``actor.sizes``, ``model_folder``
and what lies below them.
"""
