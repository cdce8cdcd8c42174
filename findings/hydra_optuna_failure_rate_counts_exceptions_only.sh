#!/usr/bin/env bash
# hydra-optuna-sweeper 1.3.0 with hydra-core 1.3.8 and optuna 2.10.1
#
# Behaviour: `hydra.sweeper.max_failure_rate` (0.0 by default: no failure is allowed) decides only about trials that
#   raise. A trial that returns None is logged as failed and over the limit, the sweep goes on all the same and ends
#   with code 0. A trial that returns nan ends the sweep with an error even where the rate is 1.0 and allows all.
# Seen on 2026-11-28, three trials, the first of which goes wrong:
#   returns None, max_failure_rate=0.0: code 0, 3 trials run, failures over the limit in the log: 1
#   returns nan, max_failure_rate=1.0: code 1, 1 trials run, Values were told. Values cannot be specified when state
#     is TrialState.PRUNED or TrialState.FAIL.
#   raises, max_failure_rate=0.0: code 1, 1 trials run
#   raises, max_failure_rate=1.0: code 0, 3 trials run
# Hurts: whoever searches hyperparameters overnight. One diverged loss ends the search that was told to bear failures,
#   and a function that forgets to return its objective in one branch passes the search that was told to bear none.
# One would guess otherwise: the sweeper calls both a "Failed experiment" and counts them against that rate.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 hydra-core==1.3.8 hydra-optuna-sweeper==1.3.0 optuna==2.10.1
cat >objective.py <<'PY'
import math
import pathlib

import hydra


@hydra.main(version_base=None, config_path=None)
def objective(config):
    trials = pathlib.Path(config.trials)
    first = not trials.exists()
    with trials.open("a") as file:
        file.write("trial\n")
    if not first:
        return float(config.x)
    if config.wrong == "raises":
        raise ArithmeticError("the loss diverged")
    return {"returns_none": None, "returns_nan": math.nan}[config.wrong]


objective()
PY

# sweep WRONG RATE: prints the exit code and the number of trials that ran; the log is left in sweep.log.
sweep() {
    local code=0
    rm -f trials
    "$python" objective.py -m hydra/sweeper=optuna hydra.sweeper.n_trials=3 hydra.sweeper.n_jobs=1 \
        hydra.sweeper.max_failure_rate="$2" +wrong="$1" +trials="$folder/trials" "+x=interval(0.0,1.0)" \
        >sweep.log 2>&1 || code=$?
    echo "code $code, $(wc -l <trials) trials run"
}

none="$(sweep returns_none 0.0)"
counted="$(grep -c 'times out of 1 with max_failure_rate=0.0' sweep.log || true)"
nan="$(sweep returns_nan 1.0)"
why="$(grep -o 'Values were told.*' sweep.log | head -n 1 || true)"
strict="$(sweep raises 0.0)"
lenient="$(sweep raises 1.0)"
echo "returns None, max_failure_rate=0.0: $none, failures over the limit in the log: $counted"
echo "returns nan, max_failure_rate=1.0: $nan, $why"
echo "raises, max_failure_rate=0.0: $strict"
echo "raises, max_failure_rate=1.0: $lenient"
[[ $none == "code 0, 3 trials run" && $counted == 1 && $nan == "code 1, 1 trials run" && -n $why ]]
[[ $strict == "code 1, 1 trials run" && $lenient == "code 0, 3 trials run" ]]
