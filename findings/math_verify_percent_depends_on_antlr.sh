#!/usr/bin/env bash
# math-verify 0.9.0 with latex2sympy2_extended 1.11.0, on antlr4-python3-runtime 4.9.3 and on 4.13.2
#
# Behaviour: latex2sympy2_extended ships one grammar for each runtime of ANTLR and takes the one that fits the
#   runtime that is installed. The grammars differ: on 4.9.3 `50\%` in dollars is 50, `\boxed{50\%}` is not parsed at
#   all, and `50\% + 1` is 1; on 4.13.2 they are 1/2, 1/2 and 3/2.
# Seen on 2026-11-28:
#   antlr 4.9.3  $50\%$ = 50  $\boxed{50\%}$ = nothing  $50\% + 1$ = 1  answer 50\% to 1/2: False
#   antlr 4.13.2  $50\%$ = 1/2  $\boxed{50\%}$ = 1/2  $50\% + 1$ = 3/2  answer 50\% to 1/2: True
# Hurts: whoever grades inside a training run. hydra-core and omegaconf require antlr4-python3-runtime 4.9.*, so the
#   grader that was tried in an environment of its own grades differently beside Hydra, and nothing is said.
# One would guess otherwise: math-verify is pinned to the same version in both, and the runtime of a parser generator
#   is not expected to decide what an expression means.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 math-verify==0.9.0 latex2sympy2_extended==1.11.0 sympy==1.14.0 antlr4-python3-runtime==4.9.3
cat >read.py <<'PY'
from importlib.metadata import version

from math_verify import parse, verify
from sympy import Basic


def value(text):
    """What the text is worth; a parse that failed leaves nothing but a string."""
    expressions = [item for item in parse(text) if isinstance(item, Basic)]
    return expressions[0].doit() if expressions else "nothing"


texts = [r"$50\%$", r"$\boxed{50\%}$", r"$50\% + 1$"]
right = verify(parse(r"$\frac{1}{2}$"), parse(r"$50\%$"))
read = "  ".join(f"{text} = {value(text)}" for text in texts)
print(f"antlr {version('antlr4-python3-runtime')}  {read}  answer 50\\% to 1/2: {right}")
PY

"$python" read.py | tee beside_hydra
"$python" -m pip --disable-pip-version-check install -qqq antlr4-python3-runtime==4.13.2 || exit 2
"$python" read.py | tee alone

grep -qF '$50\%$ = 50  $\boxed{50\%}$ = nothing  $50\% + 1$ = 1  answer 50\% to 1/2: False' beside_hydra
grep -qF '$50\%$ = 1/2  $\boxed{50\%}$ = 1/2  $50\% + 1$ = 3/2  answer 50\% to 1/2: True' alone
