from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from v05ray.errors import ConfigError
from v05ray.job.config_files import make_config
from v05ray.machine.layout import (
    Node,
    NodeType,
    Outlook,
    Role,
    generator_role,
    inference_roles,
    outlook,
    place,
    roles,
    shortfall,
    total,
    value_role,
)

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


def test_a_value_actor_that_comes_later_has_a_place_of_its_own():
    assert value_role(CONFIG, "value-2") == Role("value-2", ({"CPU": 1},), "SPREAD")
    assert value_role(CONFIG, count=2) == {role.name: role for role in roles(CONFIG)}["value"]


def test_all_parts_of_a_replica_are_in_its_one_bundle_and_so_on_one_node():
    split = CONFIG.generators.model_copy(update={"count": 1, "tensor_parallel": 4})
    config = CONFIG.model_copy(update={"generators": split})
    role = generator_role(config, 0)
    assert role == Role("generator-0", ({"CPU": 8, "GPU": 4},), "STRICT_PACK")  # 4 times 2 CPUs and 1 GPU
    assert place([role], [Node("a", {"CPU": 8, "GPU": 2}), Node("b", {"CPU": 8, "GPU": 2})])[1] == [role]
    assert place([role], [Node("a", {"CPU": 8, "GPU": 4})])[1] == []


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


HEAD = Node("head", {"CPU": 2, "head": 1, "memory": 1e9})
GENERATORS = NodeType("generator", {"CPU": 1, "generator": 1, "memory": 2e9}, most=3)
PAIR = (Role("learner", ({"CPU": 2},), "PACK"), *(Role(f"generator-{i}", ({"CPU": 1},), "STRICT_PACK") for i in (0, 1)))


def test_nodes_that_an_autoscaler_can_bring_are_distinguished_from_what_can_never_fit():
    assert outlook(PAIR, [HEAD], [GENERATORS]) == Outlook(
        "coming",
        "no room for generator-0, generator-1 yet (CPU: asked 4, present 2, obtainable 3): "
        "nodes are coming (2 generator)",
    )
    few = replace(GENERATORS, most=1)
    assert outlook(PAIR, [HEAD], [few]).verdict == "never"
    assert "CPU 1 short at the cluster's largest" in outlook(PAIR, [HEAD], [few]).text
    giant = Role("giant", ({"CPU": 3},), "PACK")
    never = outlook([giant], [HEAD], [GENERATORS])
    assert (never.verdict, never.text.split(";")[0]) == (
        "never",
        "no node, present or obtainable, holds giant (CPU 3)",
    )


def test_a_type_that_is_there_to_the_last_node_brings_no_more():
    there = [HEAD, *(Node(f"g{i}", {**GENERATORS.resources, "memory": 5e8}) for i in range(3))]
    four = [Role(f"generator-{i}", ({"CPU": 1, "generator": 0.001},), "STRICT_PACK") for i in range(4)]
    assert outlook(four[:3], there, [GENERATORS]) == Outlook("fits", "")
    assert outlook(four, there, [GENERATORS]).verdict == "never"
    assert outlook(four, there[:2], [replace(GENERATORS, most=4)]).verdict == "coming"


def test_without_knowledge_of_node_types_neither_is_claimed():
    unknown = outlook(PAIR, [HEAD], None)
    assert unknown.verdict == "unknown"
    assert "unless an autoscaler brings more" in unknown.text


amounts = st.fixed_dictionaries({"CPU": st.integers(1, 4), "GPU": st.integers(0, 2)})
machines = st.lists(amounts, max_size=4)


@given(machines, st.lists(st.tuples(amounts, st.integers(0, 3)), max_size=3), st.lists(amounts, min_size=1, max_size=5))
def test_never_is_never_said_of_what_the_largest_cluster_holds(present, types, asked):
    nodes = [Node(f"n{i}", resources) for i, resources in enumerate(present)]
    kinds = [NodeType(f"t{i}", resources, most) for i, (resources, most) in enumerate(types)]
    roles_asked = [Role(f"r{i}", (bundle,), "PACK") for i, bundle in enumerate(asked)]
    verdict = outlook(roles_asked, nodes, kinds).verdict
    whole = [*nodes, *(Node(f"{k.name}-{i}", k.resources) for k in kinds for i in range(max(0, k.most - len(nodes))))]
    if not place(roles_asked, whole)[1]:
        assert verdict in ("fits", "coming")
    assert (verdict == "fits") == (not place(roles_asked, nodes)[1])


def colocated(**generators: object):
    job = CONFIG.model_dump(mode="json", exclude_defaults=True)
    job["learner"] |= {"num_gpus": 0.6}
    job["generators"] = {"count": 1, "num_cpus": 2, "num_gpus": 0.4, **generators}
    return make_config(job | {"cluster": {"colocate": True}})


def test_a_colocated_replica_is_in_its_ranks_bundle_and_on_one_device():
    config = colocated()
    asked = {role.name: role for role in roles(config)}
    assert sorted(asked) == ["learner", "rewards", "scheduler", "value"]
    # Rank 0 and the replica: 4 + 2 CPUs, .6 + .4 of one GPU; rank 1 is alone.
    assert asked["learner"].bundles == ({"CPU": 6, "GPU": 1}, {"CPU": 4, "GPU": 0.6})
    assert place(roles(config), [Node("a", {"CPU": 16, "GPU": 2})])[1] == []
    # Evaluation alone has no learners: the replica has a group of its own.
    assert [role.name for role in inference_roles(config)] == ["scheduler", "rewards", "generator-0"]


def test_both_have_room_on_a_single_device():
    config = colocated()
    config = config.model_copy(update={"learner": config.learner.model_copy(update={"num_ranks": 1})})
    assert shortfall(roles(config), [Node("a", {"CPU": 12, "GPU": 1})]) is None


@pytest.mark.parametrize(
    ("generators", "message"),
    [
        ({"count": 3}, "generators.count <= learner.num_ranks"),
        ({"max": 2}, "no other min or max"),
        ({"num_gpus": 0.5}, r"<= 1, got 0.5 \+ 0.6"),
        ({"num_gpus": 0, "tensor_parallel": 2}, r"the one device of its rank, but generators\.tensor_parallel is 2"),
    ],
)
def test_what_cannot_share_a_device_is_refused(generators: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        colocated(**generators)
