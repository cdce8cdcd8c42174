"""The graders that ``graders.py`` compares, each as a function of responses; each imported when chosen."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

Grader = Callable[[list[dict]], list[bool]]
_PACKAGES = ("math-verify", "latex2sympy2-extended", "sympy", "antlr4-python3-runtime", "megaent")


def load_grader(name: str, source: Path | None) -> Grader:
    if name == "megaent":
        return _megaent()
    if name == "math_verify":
        return _each(_math_verify())
    assert source is not None, f"{name} needs --source, a folder with its unpacked wheel"
    if name == "trl":
        return _each(_trl(source))
    return _each(_verl(name, source))


def versions(name: str, source: Path | None) -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    for folder in source.glob("*.dist-info") if source else ():
        package, version = folder.name.removesuffix(".dist-info").split("-", 1)
        if package in name or name.startswith(package):
            found[package] = version
    return found


def _each(grade: Callable[[str, str], bool]) -> Grader:
    def grader(responses: list[dict]) -> list[bool]:
        return [_safely(grade, response["key"], response["text"]) for response in responses]

    return grader


def _safely(grade: Callable[[str, str], bool], key: str, text: str) -> bool:
    try:
        return bool(grade(key, text))
    except Exception:  # a grader that raises pays nothing
        return False


def _megaent() -> Grader:
    from megaent.reward.reward import make_reward
    from megaent.types import Group, Prompt, Response

    reward = make_reward("math", workers=1)

    def group(index: int, asked: dict) -> Group:
        response = Response(tokens=(1,), log_prob=(0.0,), finish="stop", version=0, text=asked["text"])
        prompt = Prompt(id=str(index), tokens=(1,), text=asked["question"], answer=asked["key"])
        return Group(index=index, prompt=prompt, responses=(response,))

    def grader(responses: list[dict]) -> list[bool]:
        graded = reward.grade([group(index, asked) for index, asked in enumerate(responses)])
        return [found.grades[0].correct for found in graded]

    return grader


def _math_verify() -> Callable[[str, str], bool]:
    from math_verify import parse, verify

    return lambda key, text: verify(parse(f"${key}$"), parse(text))


def _trl(source: Path) -> Callable[[str, str], bool]:
    # The file asks its package whether math-verify is there; the package itself would need torch and more.
    for name in ("peer_trl", "peer_trl.rewards"):
        sys.modules[name] = ModuleType(name)
        sys.modules[name].__path__ = []
    answers = sys.modules["peer_trl.import_utils"] = ModuleType("peer_trl.import_utils")
    vars(answers)["is_math_verify_available"] = lambda: True
    module = _file(source / "trl" / "rewards" / "accuracy_rewards.py", "peer_trl.rewards.accuracy_rewards")

    def grade(key: str, text: str) -> bool:
        [reward] = module.accuracy_reward([[{"content": text}]], [f"${key}$"])
        return bool(reward)

    return grade


def _verl(name: str, source: Path) -> Callable[[str, str], bool]:
    folder = source / "verl" / "utils" / "reward_score"
    if name == "verl_prime":
        # Its limit of time forks for every answer; without it slow answers take their time.
        for package in ("verl", "verl.utils", "verl.utils.py_functional"):
            sys.modules[package] = ModuleType(package)
        vars(sys.modules["verl.utils.py_functional"])["timeout_limit"] = lambda **_: lambda function: function
        module = _file(folder / "prime_math" / "__init__.py", "peer_prime")
        return lambda key, text: bool(module.compute_score(text, key)[0])
    module = _file(folder / f"{name.removeprefix('verl_')}.py", f"peer_{name}")
    if name == "verl_math_dapo":
        return lambda key, text: bool(module.compute_score(text, key)["acc"])
    if name == "verl_math_verify":
        # Without its pool of processes, which could not import a file that was loaded alone.
        return lambda key, text: module._verify_in_subprocess(f"\\boxed{{{key}}}", text) > 0
    return lambda key, text: float(module.compute_score(text, key)) > 0


def _file(path: Path, name: str) -> ModuleType:
    """One file of a package, without the package: it may need far more than the file does."""
    places = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=places)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
