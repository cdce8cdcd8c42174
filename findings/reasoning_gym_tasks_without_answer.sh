#!/usr/bin/env bash
# reasoning-gym 0.1.25
#
# Behaviour: five tasks (boxnet, graph_color, propositional_logic, rubiks_cube, rush_hour) give items whose `answer` is
#   None, and score that answer 0.0. Every other task that was tried scores its own answer 1.0.
# Seen on 2026-11-28:
#   each of the five: answers [None, None, None], scored [0.0, 0.0, 0.0]
#   104 tasks tried, 5 without answers, 99 score their own answers 1.0
# Hurts: whoever checks a grader with the items' own answers, imitates them before reinforcement learning, or shows
#   them as examples: the prompt then ends in the word "None", or an example is graded wrong.
# One would guess otherwise: an item is a question, an answer and metadata, and in all other tasks that were tried the
#   answer is a right one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 reasoning-gym==0.1.25
"$python" - <<'PY'
import sys

import reasoning_gym
from reasoning_gym.factory import DATASETS

LEFT_OUT = {"knight_swap", "composite"}  # slow; asks for a list of other tasks

own = {}
for name in sorted(set(DATASETS) - LEFT_OUT):
    task = reasoning_gym.create_dataset(name, seed=7, size=3)
    own[name] = [(item["answer"], task.score_answer(item["answer"], item)) for item in task]
without = [name for name, seen in own.items() if all(answer is None for answer, _ in seen)]
for name in without:
    print(f"{name}: answers {[answer for answer, _ in own[name]]}, scored {[score for _, score in own[name]]}")
full = [name for name, seen in own.items() if all(score == 1.0 for _, score in seen)]
print(f"{len(own)} tasks tried, {len(without)} without answers, {len(full)} score their own answers 1.0")
expected = {"boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"}
zero = all(score == 0.0 for name in without for _, score in own[name])
sys.exit(0 if set(without) == expected and zero else "no longer so")
PY
