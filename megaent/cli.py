"""The ``megaent`` command. Heavy imports wait until a command needs them and the environment is set."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

_TERMINATED = 128 + signal.SIGTERM

USAGE = """usage: megaent COMMAND …

  train [key=value …]          one run; under torchrun the same command on every rank
  train -m [key=a,b …]         a sweep: one run for every combination
  train --cfg [key=value …]    print the resolved configuration and stop
  resume DIR [key=value …]     continue a run, also under another parallel layout
  watch DIR                    the steps and alarms of a run of another process, from its files alone
  demo [key=value …]           three methods from one warm-up, side by side, in minutes on a CPU
  evaluate RUN|FOLDER data=…   pass@k and its kin, lengths, entropy; every response kept (--help)
  convert SOURCE TARGET        a run's newest checkpoint, or a Hugging Face folder, to the other form
  bench ops --device cpu|cuda  how fast the ops are here, and right; bench table shows it; each takes --help
  report DIR…                  a run, several runs or a sweep as one HTML file that opens anywhere
  audit FILE|RUN               keys, answers and grades that a person should look at
  data FILE [against=FILE]     forms, keys, lengths, copies and contaminated rows of a set (--help)
  shard FILE model= out=       texts as token sequences in files larger than memory (--help)
  plan key=value …             memory, time and layout of a step before a machine is rented; takes --help
  scale --out DIR              how a step grows: measured here, planned for cards, simulated for a fleet
  doctor                       what is installed, which backends are used, what is missing
  doctor --methods             every method, and which of them can be combined

Groups: experiment= model= data= rollout= method=   e.g. megaent train experiment=demo steps=20
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code: 0, that of the error that was printed, 130 or 143 when a signal ended it at once."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": _train,
        "resume": _resume,
        "watch": _watch,
        "demo": _demo,
        "evaluate": _evaluate,
        "data": _data,
        "shard": _shard,
        "convert": _convert,
        "bench": _bench,
        "report": _report,
        "audit": _audit,
        "plan": _plan,
        "scale": _scale,
        "doctor": _doctor,
    }
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    explains_itself = words[0] in (
        "audit",
        "bench",
        "data",
        "evaluate",
        "plan",
        "report",
        "scale",
        "shard",
        "watch",
    )
    asks_for_help = not explains_itself and ("--help" in words or "-h" in words)
    if words[0] not in commands or asks_for_help:
        is_known = words[0] in commands
        print(USAGE, end="", file=sys.stdout if is_known else sys.stderr)
        return 0 if is_known else _fail(f"there is no command {words[0]!r}", 2)
    return _guarded(commands[words[0]], words[1:])


def _guarded(command: Callable[[list[str]], int], words: list[str]) -> int:
    """One clear message instead of a traceback for everything a person can mend."""
    from megaent.errors import MegaentError, Stopped
    from megaent.lifetime import end_with_parent

    end_with_parent()
    signal.signal(signal.SIGTERM, _terminate)
    # Once a run trains, what a signal means and costs is its own affair (megaent.run.stopping).
    hint = " before the first step; nothing is lost" if command in (_train, _resume) else ""
    try:
        return command(words)
    except Stopped as end:
        # Every rank stops; one of them says so.
        return _fail(str(end), end.exit_code) if _speaks() else end.exit_code
    except MegaentError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _fail(f"interrupted{hint}", 130)
    except SystemExit as end:
        if end.code != _TERMINATED:
            raise
        return _fail(f"terminated{hint}", _TERMINATED)
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        return _fail(f"{error.strerror or error}: {error.filename or ''}", 1)
    except ModuleNotFoundError as error:
        return _fail(
            f"{error.name} is not installed; run ./scripts/setup, or pip install 'megaent[train]'", 8
        )


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(_TERMINATED)


def _fail(message: str, code: int) -> int:
    rank = os.environ.get("RANK")
    where = f" (rank {rank})" if rank is not None else ""
    print(f"megaent{where}: {message}", file=sys.stderr, flush=True)
    return code


def _say(line: str) -> None:
    """What takes its time, told before it begins; by one process of a run."""
    if _speaks():
        print(line, flush=True)


def _speaks() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _train(words: list[str]) -> int:
    _quiet_libraries()
    if "-m" in words or "--multirun" in words:
        return _sweep(words)
    is_shown = "--cfg" in words
    if not is_shown:
        _say("reading the configuration")
    from megaent.config.composition import compose_config
    from megaent.config.paths import with_absolute_paths

    overrides = [word for word in words if word != "--cfg"]
    if is_shown:
        print(compose_config(overrides)[1], end="")
        return 0
    config, text = compose_config(overrides, check_files=True, say=_say)
    from megaent.config.fastest_dtype import settle_dtype

    config, text, overrides = settle_dtype(config, text, with_absolute_paths(overrides, text), say=_say)
    _say("loading Megatron-Core")
    from megaent.run.run import train

    train(config, text, overrides)
    return 0


def _sweep(words: list[str]) -> int:
    """Each point is an ordinary run in its own directory, in a process of its own."""
    _say("reading the configuration of every run")
    from megaent.commands.sweep import sweep

    sweep(words)
    return 0


def _resume(words: list[str]) -> int:
    _quiet_libraries()
    from megaent.commands.resume import resume

    resume(words, _say)
    return 0


def _watch(words: list[str]) -> int:
    from megaent.commands.watch import watch

    return watch(words)


def _demo(words: list[str]) -> int:
    _quiet_libraries()
    _say("three methods from one warm-up, compared: reading their configurations")
    from megaent.commands.demo import demo

    demo(words)
    return 0


def _convert(words: list[str]) -> int:
    if len(words) != 2:
        return _fail("convert needs a source and a target: megaent convert SOURCE TARGET", 2)
    _quiet_libraries()
    _say(f"converting {words[0]}: loading PyTorch and Megatron-Core")
    from megaent.commands.convert import convert

    convert(Path(words[0]), Path(words[1]))
    return 0


def _evaluate(words: list[str]) -> int:
    _quiet_libraries()
    from megaent.commands.evaluate import evaluate

    return evaluate(words)


def _data(words: list[str]) -> int:
    _quiet_libraries()
    from megaent.commands.data import data

    return data(words)


def _shard(words: list[str]) -> int:
    _quiet_libraries()
    from megaent.commands.shard import shard

    return shard(words)


def _bench(words: list[str]) -> int:
    from megaent.bench.command import bench

    return bench(words)


def _report(words: list[str]) -> int:
    from megaent.commands.report import report

    return report(words, _say)


def _audit(words: list[str]) -> int:
    from megaent.commands.audit import audit

    return audit(words)


def _plan(words: list[str]) -> int:
    from megaent.commands.plan import plan

    return plan(words)


def _scale(words: list[str]) -> int:
    _quiet_libraries()
    from megaent.commands.scale import scale

    return scale(words, _say)


def _doctor(words: list[str]) -> int:
    if words == ["--methods"]:
        from megaent.methods.matrix import compatibility
        from megaent.methods.matrix import render as render_matrix

        print(render_matrix(compatibility()))
        return 0
    from megaent.commands.doctor import doctor, exit_code, render

    if words:
        return _fail(f"doctor takes --methods or nothing, got {' '.join(words)}", 2)
    checks = doctor()
    print(render(checks))
    return exit_code(checks)


def _quiet_libraries() -> None:
    """No downloads behind one's back, no warnings meant for Megatron's own developers."""
    import logging
    import warnings

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
    for module in ("megatron", "transformers", "torch"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
    # Deprecations that 0.19 logs, and torch's remark that a machine with nvcc has no card.
    for logger in ("megatron", "torch.utils.cpp_extension"):
        logging.getLogger(logger).setLevel(logging.ERROR)
