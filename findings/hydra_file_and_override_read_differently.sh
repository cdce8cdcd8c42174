#!/usr/bin/env bash
# hydra-core 1.3.8 with omegaconf 2.3.1
#
# Behaviour: the same text is one value in a configuration file and another as an override. Files are read as YAML
#   1.1, overrides by a grammar of Hydra's own, in which `on` and `0x10` are words and `~` is nothing at all, while
#   `inf` and `nan` are numbers, which in a file are words.
# Seen on 2026-11-28:
#   on: True in a file, 'on' as an override
#   NO: False in a file, 'NO' as an override
#   0x10: 16 in a file, '0x10' as an override
#   1:30: 90 in a file, '1:30' as an override
#   010: 8 in a file, '010' as an override
#   inf: 'inf' in a file, inf as an override
#   nan: 'nan' in a file, nan as an override
#   .inf: inf in a file, '.inf' as an override
#   ~: None in a file, an error as an override
#   alike: 1e-4, 1_000, null, true
# Hurts: whoever replays a run from its saved overrides, or moves a value from the command line into a file: a limit
#   of `inf` becomes a word, a mask `0x10` a number, a name `NO` a False.
# One would guess otherwise: an override is written `key=value` and a file `key: value`, `null`, `true` and 1e-4 are the
#   same in both, and both end in one configuration.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_environment.sh"

environment 3.11 hydra-core==1.3.8 omegaconf==2.3.1
"$python" - <<'PY'
import pathlib
import sys

from hydra import compose, initialize_config_dir
from hydra.errors import OverrideParseException

TEXTS = ["on", "NO", "0x10", "1:30", "010", "inf", "nan", ".inf", "~", "1e-4", "1_000", "null", "true"]
ALIKE = TEXTS[-4:]

lines = [f"key{index}: {text}\n" for index, text in enumerate(TEXTS)]
pathlib.Path("read.yaml").write_text("typed: null\n" + "".join(lines))


def as_override(text):
    try:
        return repr(compose("read", [f"typed={text}"]).typed)
    except OverrideParseException:
        return "an error"


with initialize_config_dir(str(pathlib.Path.cwd()), version_base=None):
    in_file = {text: repr(compose("read")[f"key{index}"]) for index, text in enumerate(TEXTS)}
    typed = {text: as_override(text) for text in TEXTS}
for text in TEXTS:
    if in_file[text] != typed[text]:
        print(f"{text}: {in_file[text]} in a file, {typed[text]} as an override")
alike = [text for text in TEXTS if in_file[text] == typed[text]]
print("alike:", ", ".join(alike))
sys.exit(0 if alike == ALIKE else "no longer so")
PY
