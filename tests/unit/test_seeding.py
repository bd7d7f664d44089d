from v05ray.seeding import derive_seed, rollout_seed


def test_seeds_are_the_same_everywhere_and_31_bits():
    assert rollout_seed(0, 1, "p", 0) == 2038600323
    assert 0 <= derive_seed("x") < 2**31


def test_every_part_changes_the_seed_and_parts_do_not_run_together():
    base = rollout_seed(0, 1, "p", 0)
    assert len({base, rollout_seed(1, 1, "p", 0), rollout_seed(0, 2, "p", 0), rollout_seed(0, 1, "q", 0)}) == 4
    assert derive_seed("a", "bc") != derive_seed("ab", "c")
    assert derive_seed(1) != derive_seed("1")
