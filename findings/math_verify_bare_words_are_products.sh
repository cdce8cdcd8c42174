#!/usr/bin/env bash
# math-verify 0.9.0 with latex2sympy2_extended 1.11.0
#
# Behaviour: a word in a box without `\text` is read as LaTeX would set it, as the product of its letters, with `e` the
#   base of the natural logarithm. A product does not know the order of its factors, so words of the same letters are
#   equal. In `\text{}` the same words are words.
# Seen on 2026-11-28:
#   \boxed{east} is E*a*s*t, a Mul
#   seat for east: True, in \text: False
# Hurts: whoever grades answers that are words (directions, colours, names, yes and no) with it: a reward then goes to
#   another word, and a model that writes `\boxed{east}` is compared by other rules than one that writes `\text{east}`.
# One would guess otherwise: an answer that is no number is compared as the string that it is, and here it is not.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0 antlr4-python3-runtime==4.13.2
"$python" - <<'PY'
import sys

from math_verify import parse, verify

bare = parse(r"\boxed{east}")[0]
equal = verify(parse(r"\boxed{east}"), parse(r"\boxed{seat}"))
in_text = verify(parse(r"\boxed{\text{east}}"), parse(r"\boxed{\text{seat}}"))
print(rf"\boxed{{east}} is {bare}, a {type(bare).__name__}")
print(f"seat for east: {equal}, in \\text: {in_text}")
sys.exit(0 if equal and not in_text else "no longer so")
PY
