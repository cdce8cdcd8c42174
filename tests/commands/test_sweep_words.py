"""What the words of a sweep mean, and what its points are called."""

from __future__ import annotations

import pytest

from megaent import config_folder
from megaent.commands.sweep_words import folder_name, read_words
from megaent.config.composition import compose_config
from megaent.errors import ConfigError
from megaent.methods import METHODS
from megaent.methods.options import options_of


def points(*words: str) -> list[str]:
    return [point.name for point in read_words(["-m", *words]).points]


def test_a_list_is_one_choice() -> None:
    assert points("method=[less,kl_cov],grpo") == ["method=[less,kl_cov]", "method=grpo"]
    assert points("method=[less,kl_cov]", "seed=0,1") == ["seed=0", "seed=1"]


def test_every_combination_once_in_the_order_given() -> None:
    assert points("seed=0,1", "method=grpo,less") == [
        "method=grpo,seed=0",
        "method=less,seed=0",
        "method=grpo,seed=1",
        "method=less,seed=1",
    ]
    assert points("seed=1,1") == ["seed=1"]


def test_ranges_and_choices_are_hydras() -> None:
    assert points("seed=range(0,3)") == ["seed=0", "seed=1", "seed=2"]
    assert points("method=choice([less,kl_cov],grpo)") == ["method=[less,kl_cov]", "method=grpo"]


def test_a_sweep_without_a_choice_is_one_point() -> None:
    asked = read_words(["-m", "experiment=demo"])
    assert [point.folder for point in asked.points] == ["defaults"]
    assert asked.common == ("experiment=demo",)


def test_names_say_nothing_of_the_order_of_words() -> None:
    assert set(points("seed=0,1", "optim.lr=1e-3,1e-4")) == set(points("optim.lr=1e-3,1e-4", "seed=0,1"))


def test_folders_are_file_names_and_never_shared() -> None:
    assert folder_name(("method=grpo", "seed=0")) == "method=grpo,seed=0"
    listed = folder_name(("method=[less,kl_cov]",))
    assert listed.startswith("method=less+kl_cov-")
    hard = [
        ("data.path=/a/b",),
        ("data.path=/a_b",),
        ("data.path=../b",),
        ("x=" + "y" * 300,),
        ("x=" + "y" * 301,),
    ]
    names = [folder_name(words) for words in hard]
    assert len(set(names)) == len(names)
    assert all("/" not in name and not name.startswith(".") and len(name) < 200 for name in names)


def test_text_with_an_equals_sign_stays_text_in_each_choice() -> None:
    (point,) = read_words(["-m", "data.template=Put it in \\boxed{}."]).points
    assert point.words == ()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run.dir=here", "sweep.dir=DIR"),
        ("hydra/sweeper=optuna", "every combination"),
        ("hydra.sweep.subdir=x", "named by its choices"),
        ("--info", "takes no --info"),
        ("seed=interval(0,1)", "list the seeds"),
        ("optim.lr=interval(0,1)", "list the choices"),
        ("method=glob(*)", "list the choices"),
        ("sweep.dir=", "needs a directory"),
        ("seed", "no override"),
    ],
)
def test_what_a_sweep_does_not_take_is_refused(word: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_words(["-m", word])


# ---------------------------------------------------------------- ready sweeps

READY = sorted(path.stem for path in (config_folder() / "sweep").glob("*.yaml"))


def test_a_ready_sweep_is_its_words_and_others_win() -> None:
    asked = read_words(["-m", "sweep=kl_cov_fraction", "experiment=demo", "seed=7"])
    assert asked.common == ("method=kl_cov", "seed=7", "experiment=demo")
    assert [point.name for point in asked.points] == [
        "method.fraction=0.0002",
        "method.fraction=0.002",
        "method.fraction=0.02",
    ]


def test_an_unknown_ready_sweep_is_refused_with_what_is_near() -> None:
    with pytest.raises(ConfigError, match="sweep=kl_cov_coeff is unknown; did you mean kl_cov_coef"):
        read_words(["-m", "sweep=kl_cov_coeff"])


def test_every_method_has_a_ready_sweep_that_says_what_it_varies() -> None:
    swept = set()
    for name in READY:
        assert (config_folder() / "sweep" / f"{name}.yaml").read_text().startswith("# "), name
        asked = read_words(["-m", f"sweep={name}"])
        for word in (*asked.common, *(word for point in asked.points for word in point.words)):
            if word.startswith("method="):
                swept.add(word.removeprefix("method="))
    assert swept == set(METHODS)


@pytest.mark.parametrize("name", READY)
def test_a_ready_sweep_varies_options_around_what_is_published(name: str) -> None:
    asked = read_words(["-m", f"sweep={name}"])
    methods = [word.removeprefix("method=") for word in asked.common if word.startswith("method=")]
    for method in methods:
        defaults = {option: default for option, _, default in options_of(method)}
        for word in {word for point in asked.points for word in point.words if word.startswith("method.")}:
            assert word.split("=")[0].removeprefix("method.") in defaults, word
        varied = {key for point in asked.points for key in [word.split("=")[0] for word in point.words]}
        for key in varied - {"seed", "optim.lr"}:
            option = key.removeprefix("method.")
            values = [
                word.split("=")[1]
                for point in asked.points
                for word in point.words
                if word.startswith(f"{key}=")
            ]
            assert str(defaults[option]) in values, f"{option}: {defaults[option]} is published"


@pytest.mark.full
@pytest.mark.parametrize("name", READY)
def test_every_point_of_a_ready_sweep_composes(name: str) -> None:
    asked = read_words(["-m", f"sweep={name}", "experiment=demo", "seed=0"])
    for point in asked.points:
        compose_config([*asked.common, *point.words])
