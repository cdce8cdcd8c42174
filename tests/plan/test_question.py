"""Words of a plan: a misspelt key, a wrong type, an incomplete cluster are told with the nearest right."""

from __future__ import annotations

from pathlib import Path

import pytest

from megaent.errors import ConfigError
from megaent.plan.cluster import find_cluster, read_cluster
from megaent.plan.question import read_question

CLUSTER = """name: two
generation: hopper
bf16_tflops: 100
fp8_tflops: 0
memory_gib: 10
memory_gbps: 1000
cards_per_node: 2
link_gbps: 100
network_gbps: 10
host_gbps: 10
"""


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("nods=4", "there is no key 'nods'; did you mean nodes"),
        ("nodes=four", "nodes must be a whole number, got 'four'"),
        ("nodes=-4", "nodes must be a whole number"),
        ("nodes=4.5", "nodes must be a whole number"),
        ("nodes", "'nodes' is no key=value"),
        ("price=nan", "price must be a finite number"),
        ("response_tokens=inf", "response_tokens must be a finite number"),
        ("lora=yes", "lora must be true or false"),
        ("recompute=some", "recompute must be one of none, selective, full, got 'some'"),
        ("precision=int4", "precision must be one of"),
        ("group_size=0", "group_size must be 1 or more"),
        ("constants.gemm_shore=0.5", "did you mean gemm_share"),
        ("constants.gemm_half=-1", "must be a finite number of 0 or more"),
    ],
)
def test_a_wrong_word_is_refused_with_what_would_be_right(word: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_question(["model=qwen2_5_7b", word]).read_constants(find_cluster("h100"))


def test_a_key_given_twice_is_refused_also_under_its_other_name() -> None:
    with pytest.raises(ConfigError, match="gpus is given twice"):
        read_question(["model=qwen2_5_7b", "gpus=8", "n_gpus=16"])


def test_cards_are_counted_once() -> None:
    cluster = find_cluster("h100")
    assert read_question(["model=a", "nodes=3"]).count_cards(cluster) == 24
    with pytest.raises(ConfigError, match="gpus=8 contradicts nodes=3"):
        read_question(["model=a", "nodes=3", "gpus=8"]).count_cards(cluster)
    with pytest.raises(ConfigError, match="how many cards"):
        read_question(["model=a"]).count_cards(cluster)


def test_every_cluster_of_the_tree_can_be_read(repository: Path) -> None:
    for path in (repository / "configs" / "cluster").glob("*.yaml"):
        found = read_cluster(path)
        assert found.source, path


def test_clusters_are_known_under_the_names_that_people_use() -> None:
    assert find_cluster("A100-80GB") == find_cluster("a100_80") == find_cluster("A100")
    assert find_cluster("GB200").cards_per_node == 72
    with pytest.raises(ConfigError, match="cluster=h101 is unknown; did you mean"):
        find_cluster("h101")


def test_a_cluster_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(CLUSTER)
    assert find_cluster(str(path)).memory_gbps == 1000


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("memory_gib: 10\nmemory_gbps: 1000\n", ""),
            "lacks memory_gib, memory_gbps; configs/cluster/h100.yaml",
        ),
        (("link_gbps", "links_gbps"), "there is no field 'links_gbps'; did you mean link_gbps"),
        (("hopper", "volta"), "generation must be one of ampere, hopper, blackwell, got 'volta'"),
        (("cards_per_node: 2", "cards_per_node: 2.5"), "cards_per_node must be a whole number"),
        (("bf16_tflops: 100", "bf16_tflops: fast"), "bf16_tflops must be a number"),
        (("memory_gib: 10", "memory_gib: .nan"), "memory_gib must be a number"),
        (("memory_gib: 10", "memory_gib: 0"), "memory_gib must be a number"),
        ((CLUSTER, "- a\n- b\n"), "must hold `field: value` lines"),
        ((CLUSTER, "a: [\n"), "is no YAML"),
    ],
)
def test_a_bad_cluster_file_is_refused(tmp_path: Path, change: tuple[str, str], says: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(CLUSTER.replace(*change))
    with pytest.raises(ConfigError, match=says):
        read_cluster(path)
