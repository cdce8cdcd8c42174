"""``megaent scale``: how a step grows with ranks, layouts, lengths and cards."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from megaent.durable import replace_file
from megaent.errors import ConfigError
from megaent.plan.fleet import Failures
from megaent.scale.page import study_page
from megaent.scale.series import Series, chosen_series
from megaent.scale.simulated import FleetQuestion, split_lines
from megaent.scale.study import FILE, Study, measure_all, plan_cards, read_study

PAGE = "scale.html"
_PARTS = ("measured", "planned", "simulated")
_NODE = 8
_SPLIT_SHARES = (0.25, 0.375, 0.5, 0.625, 0.75)


def scale(words: Sequence[str], say: Callable[[str], None]) -> int:
    """Raises ConfigError for words that make no sense, DataError for a folder with something else in it."""
    asked = _parser().parse_args(words)
    parts = _parts(asked.parts)
    measured = chosen_series(asked.series, asked.max_ranks)
    for name in ("cards", "fleet_cards", "staleness"):
        setattr(asked, name, _numbers(name, getattr(asked, name)))
    _require_device(asked.device)
    folder = asked.out.absolute()
    study = _begun(folder, asked, words)
    if "measured" in parts:
        measure_all(
            study, measured, folder, steps=asked.steps, device=asked.device, limit_s=asked.limit_s, say=say
        )
    if "planned" in parts:
        plan_cards(study, asked.models.split(","), asked.cluster, asked.cards, folder, say)
    if "simulated" in parts:
        _simulate(study, asked, folder, say)
    _write_page(study, measured, folder, say)
    return 0


def _simulate(study: Study, asked: argparse.Namespace, folder: Path, say: Callable[[str], None]) -> None:
    words = (f"model={asked.fleet_model}", f"cluster={asked.cluster}")
    failures = Failures(per_card_hour=asked.failures)
    for grows, lines in ((False, study.fleet), (True, study.growing)):
        if not lines:
            question = FleetQuestion(
                words=words,
                cards=asked.fleet_cards,
                staleness=asked.staleness,
                grows=grows,
                failures=failures,
            )
            lines.extend(question.lines(say))
            study.write(folder)
    if not study.split:
        say(f"simulating {asked.split_cards} cards, divided in {len(_SPLIT_SHARES)} ways")
        study.split = split_lines(words, asked.split_cards, 2, failures, _SPLIT_SHARES, node=_NODE)
        study.write(folder)


def _write_page(study: Study, measured: Sequence[Series], folder: Path, say: Callable[[str], None]) -> None:
    text = study_page(study, measured)
    replace_file(folder / PAGE, text)
    say(f"report  {folder / PAGE}  ({len(text.encode()) / 1e6:.1f} MB); numbers  {folder / FILE}")


def _begun(folder: Path, asked: argparse.Namespace, words: Sequence[str]) -> Study:
    """The study that is there, if it was asked the same; or a new one."""
    from megaent.bench.record import describe

    question = {
        name: str(value) for name, value in sorted(vars(asked).items()) if name not in ("out", "parts")
    }
    if (folder / FILE).exists():
        study = read_study(folder)
        if study.record["question"] != question:
            raise ConfigError(f"{folder} holds a study of other words; choose another --out")
        return study
    folder.mkdir(parents=True, exist_ok=True)
    record = describe(asked.device, " ".join(["megaent", "scale", *words])) | {"question": question}
    return Study(record=record)


def _parts(text: str) -> list[str]:
    parts = text.split(",")
    unknown = [part for part in parts if part not in _PARTS]
    if unknown:
        raise ConfigError(f"--parts takes {', '.join(_PARTS)}, got {unknown[0]!r}")
    return parts


def _require_device(device: str) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("--device cuda needs a card, and torch sees none; take --device cpu")


def _numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 0:
        raise ConfigError(f"--{name.replace('_', '-')} takes whole numbers separated by commas, got {text!r}")
    return numbers


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="megaent scale",
        description="How a step grows: measured here, planned for cards, simulated for a fleet. A command "
        "that was cut goes on where it was.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of the report, the runs and the numbers"
    )
    parser.add_argument("--parts", default=",".join(_PARTS), help="which of them")
    measured = parser.add_argument_group("measured here, by small runs with random weights")
    measured.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    measured.add_argument(
        "--series", default="all", help="strong, weak, tp, pp, cp, length, vocabulary, group, or all"
    )
    measured.add_argument("--max-ranks", type=int, default=2, help="processes at once")
    measured.add_argument("--steps", type=int, default=4, help="of a run; the first is not counted")
    measured.add_argument("--limit-s", type=float, default=900.0, help="seconds that one run may take")
    planned = parser.add_argument_group("planned")
    planned.add_argument("--cluster", default="h100", help="as `megaent plan` takes it")
    planned.add_argument("--models", default="qwen2_5_7b,qwen2_5_14b,qwen2_5_32b")
    planned.add_argument("--cards", default="8,16,32,64,128,256,512")
    simulated = parser.add_argument_group("simulated")
    simulated.add_argument("--fleet-model", default="qwen2_5_7b")
    simulated.add_argument("--fleet-cards", default="8,16,64,256,1024,4096")
    simulated.add_argument("--staleness", default="0,1,2,4", help="batches ahead")
    simulated.add_argument("--split-cards", type=int, default=64, help="divided between engines and trainer")
    simulated.add_argument(
        "--failures", type=float, default=2e-5,
        help="of a card an hour; 2e-5 is 419 in 54 days of 16,384 cards (arXiv 2407.21783)",
    )  # fmt: skip
    return parser
