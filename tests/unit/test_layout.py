import pytest

from v05ray.config_files import make_config
from v05ray.layout import Node, Role, place, roles, shortfall, total

CONFIG = make_config(
    {
        "model": {"path": "m"},
        "data": {"train": "jsonl"},
        "generators": {"count": 3, "num_cpus": 2, "num_gpus": 1},
        "learner": {"num_ranks": 2, "num_cpus": 4, "num_gpus": 1},
        "value": {"pool_size": 2, "num_cpus": 1},
        "rewards": {"num_cpus": 1},
    }
)


def test_every_generator_is_a_group_of_its_own_and_the_learners_are_one_gang():
    asked = {role.name: role for role in roles(CONFIG)}
    assert sorted(asked) == ["generator-0", "generator-1", "generator-2", "learner", "rewards", "scheduler", "value"]
    assert asked["learner"].bundles == ({"CPU": 4, "GPU": 1},) * 2
    assert asked["generator-0"].strategy == "STRICT_PACK"


def test_the_total_adds_up_by_hand():
    # 3 x 2 generators + 2 x 4 learners + 2 x 1 value + 1 rewards + .25 scheduler; 3 + 2 GPUs
    assert total(roles(CONFIG)) == {"CPU": pytest.approx(17.25), "GPU": 5}


def test_what_fits_is_placed_within_every_node():
    nodes = [Node("a", {"CPU": 12, "GPU": 4}), Node("b", {"CPU": 8, "GPU": 1})]
    placed, unplaced = place(roles(CONFIG), nodes)
    assert unplaced == []
    used = {"a": 0.0, "b": 0.0}
    for role in roles(CONFIG):
        for node, bundle in zip(placed[role.name], role.bundles, strict=True):
            used[node] += bundle["CPU"]
    assert used["a"] <= 12
    assert used["b"] <= 8
    assert shortfall(roles(CONFIG), nodes) is None


def test_a_shortfall_names_who_has_no_place_and_what_is_missing():
    reason = shortfall(roles(CONFIG), [Node("a", {"CPU": 32, "GPU": 4})])
    assert reason is not None
    assert "no room for generator-2" in reason
    assert "GPU: asked 5, present 4" in reason
    assert "generators.count" in reason


def test_bundles_that_must_stay_together_do_not_split_over_nodes():
    pair = Role("pair", ({"GPU": 1}, {"GPU": 1}), "STRICT_PACK")
    apart = [Node("a", {"GPU": 1}), Node("b", {"GPU": 1})]
    assert place([pair], apart)[1] == [pair]
    assert place([pair], [Node("a", {"GPU": 2})])[0] == {"pair": ["a", "a"]}


def test_node_types_are_asked_for_by_their_own_resource_where_that_is_wanted():
    on_types = CONFIG.model_copy(update={"cluster": CONFIG.cluster.model_copy(update={"node_types": True})})
    asked = {role.name: role.bundles[0] for role in roles(on_types)}
    assert asked["generator-0"] == {"CPU": 2, "GPU": 1, "generator": 0.001}
    assert asked["learner"]["learner"] == asked["value"]["value"] == 0.001
    assert asked["scheduler"] == {"CPU": 0.25}
    assert all("generator" not in role.bundles[0] for role in roles(CONFIG))
