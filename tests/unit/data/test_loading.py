"""From sources to prompts: what is kept, what is left out and counted, what is refused and how it is said."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.unit.data.tokenizing import CharTokenizer, decode
from v05ray.config import DataConfig, Spec
from v05ray.data import PromptTooLong, load_prompts, load_splits
from v05ray.errors import ConfigError


def write(path: Path, rows) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def qa(question, answer="2", **more):
    return {"question": question, "answer": answer, **more}


def load(spec, *, tokenizer=None, max_prompt_tokens=200, limit=None, seed=0, **data):
    config = DataConfig.model_validate({"train": spec, **data})
    return load_prompts(
        config.train, config, tokenizer or CharTokenizer(), max_prompt_tokens=max_prompt_tokens, seed=seed, limit=limit
    )


def jsonl(tmp_path, rows, **options):
    return {"name": "jsonl", "path": write(tmp_path / "sums.jsonl", rows), **options}


def test_a_prompt_is_templated_and_keeps_the_bare_question(tmp_path):
    spec = jsonl(tmp_path, [qa("1+1?")])
    (prompt,) = load(spec, system_prompt="Be brief.", suffix=" Just the number.")
    assert decode(prompt.token_ids) == "<system>Be brief.<user>1+1? Just the number.<assistant>"
    assert (prompt.text, prompt.answer, prompt.source) == ("1+1?", "2", "sums")


def test_a_raw_question_is_given_as_it_is_with_the_tokenizers_special_tokens(tmp_path):
    (prompt,) = load(jsonl(tmp_path, [qa("1+1?")]), suffix=" =", chat_template=False)
    assert prompt.token_ids[0] == 1
    assert decode(prompt.token_ids[1:]) == "1+1? ="


def test_ids_are_stable_under_cutting_and_sorting(tmp_path):
    rows = [qa(f"{i}+1?") for i in range(5)]
    ids = {p.text: p.prompt_id for p in load(jsonl(tmp_path, rows))}
    assert {p.text: p.prompt_id for p in load(jsonl(tmp_path, rows[::-1]))} == ids
    assert {p.text: p.prompt_id for p in load(jsonl(tmp_path, rows[2:]))}.items() <= ids.items()
    assert len(set(ids.values())) == 5
    assert ids["0+1?"] == "sums-ac9c239715079bb7"


def test_ids_of_the_file_are_kept_under_the_sources_name(tmp_path):
    spec = jsonl(tmp_path, [qa("a", id=1), qa("b", id=2)], id_field="id", source="mine")
    assert [p.prompt_id for p in load(spec)] == ["mine-1", "mine-2"]
    with pytest.raises(ConfigError, match="prompt id 'mine-1' belongs to several questions"):
        load(jsonl(tmp_path, [qa("a", id=1), qa("b", id=1)], id_field="id", source="mine"))


def test_a_bad_row_is_refused_with_file_row_and_reason(tmp_path):
    spec = jsonl(tmp_path, [qa("a"), "{broken", qa("b")])
    with pytest.raises(ConfigError, match=r"sums\.jsonl:2: not JSON.*data\.skip_bad_rows allows 0"):
        load(spec)
    assert [p.text for p in load(spec, skip_bad_rows=1)] == ["a", "b"]
    with pytest.raises(ConfigError, match=r"sums\.jsonl:3: no answer.*bad row 2"):
        load(jsonl(tmp_path, ["{broken", qa("a"), {"question": "b"}]), skip_bad_rows=1)


def test_bytes_that_are_no_text_are_one_bad_row(tmp_path):
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(json.dumps(qa("a")).encode() + b"\n\xff\xfe\n\n" + json.dumps(qa("b")).encode())
    spec = {"name": "jsonl", "path": str(path)}
    with pytest.raises(ConfigError, match=r"bytes\.jsonl:2: not UTF-8"):
        load(spec)
    assert [p.text for p in load(spec, skip_bad_rows=1)] == ["a", "b"]


def test_a_prompt_longer_than_the_context_is_named(tmp_path):
    spec = jsonl(tmp_path, [qa("a"), qa("x" * 50, id=9)])
    with pytest.raises(PromptTooLong, match=r":2: prompt 'sums-\w+' has 67 tokens.*leaves 20; raise model\.max_length"):
        load(spec, max_prompt_tokens=20)
    assert [p.text for p in load(spec, max_prompt_tokens=20, skip_bad_rows=1)] == ["a"]
    assert len(load(spec, max_prompt_tokens=67)) == 2
    with pytest.raises(ConfigError, match=r"must exceed sampling\.max_tokens"):
        load(spec, max_prompt_tokens=0)


def test_an_empty_data_set_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"sums\.jsonl: no prompts"):
        load(jsonl(tmp_path, []))


def test_repeats_are_left_out_and_contradictions_are_bad_rows(tmp_path):
    assert [p.text for p in load(jsonl(tmp_path, [qa("a"), qa("b"), qa("a")]))] == ["a", "b"]
    with pytest.raises(ConfigError, match=r":2: asks what .*:1 asks, with answer '3', not '2'"):
        load(jsonl(tmp_path, [qa("a", "2"), qa("a", "3")]))


def test_a_limit_takes_the_first_and_reads_no_further(tmp_path):
    spec = jsonl(tmp_path, [qa("a"), qa("b"), "{broken"])
    assert [p.text for p in load(spec, limit=2)] == ["a", "b"]
    assert [p.text for p in load(jsonl(tmp_path, [qa("a")]), limit=5)] == ["a"]


def test_several_files_are_read_in_order(tmp_path):
    paths = [write(tmp_path / f"{name}.jsonl", [qa(name)]) for name in ("b", "a")]
    assert [(p.text, p.source) for p in load({"name": "jsonl", "path": paths})] == [("b", "b"), ("a", "a")]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("jsonll", "unknown data source 'jsonll'; did you mean 'jsonl'?"),
        ({"name": "jsonl"}, "needs path"),
        ({"name": "jsonl", "path": "gone.jsonl"}, "gone.jsonl is not a file"),
        ({"name": "jsonl", "path": []}, "empty list"),
        ({"name": "jsonl", "path": "x", "anser_field": "y"}, "did you mean 'answer_field'?"),
        ({"name": "huggingface", "path": "/gone/away"}, "/gone/away does not exist (looked from"),
    ],
)
def test_sources_that_cannot_be_read_say_why(spec, message):
    with pytest.raises(ConfigError) as error:
        load(spec)
    assert message in str(error.value)


def test_templates_that_cannot_work_say_why(tmp_path):
    spec = jsonl(tmp_path, [qa("a")])
    with pytest.raises(ConfigError, match=r"no chat template; set data\.chat_template: false"):
        load(spec, tokenizer=CharTokenizer(chat_template=None))
    with pytest.raises(ConfigError, match=r"data\.system_prompt needs data\.chat_template: true"):
        load(spec, system_prompt="Be brief.", chat_template=False)
    talk = jsonl(
        tmp_path,
        [{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], "answer": "2"}],
    )
    with pytest.raises(ConfigError, match=r"sums\.jsonl:1: the row has a system message of its own"):
        load(talk, system_prompt="Be brief.")
    with pytest.raises(ConfigError, match=r"needs data\.chat_template: true"):
        load(talk, chat_template=False)
    assert decode(load(talk)[0].token_ids) == "<system>s<user>a<assistant>"


def test_parquet_in_verls_format(tmp_path):
    rows = [
        {
            "data_source": "gsm8k",
            "prompt": [{"role": "user", "content": f"{i}+1?"}],
            "reward_model": {"style": "rule", "ground_truth": str(i + 1)},
            "extra_info": {"index": i},
        }
        for i in range(3)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    prompts = load({"name": "parquet", "path": str(tmp_path / "train.parquet")})
    assert [(p.text, p.answer, p.source) for p in prompts] == [(f"{i}+1?", str(i + 1), "gsm8k") for i in range(3)]
    assert prompts[2].metadata == {"index": 2}
    named = load({"name": "parquet", "path": str(tmp_path / "train.parquet"), "id_field": "extra_info.index"})
    assert [p.prompt_id for p in named] == ["gsm8k-0", "gsm8k-1", "gsm8k-2"]


def test_a_file_that_is_no_parquet_and_a_bad_parquet_row(tmp_path):
    with pytest.raises(ConfigError, match=r"x\.parquet is not a Parquet file"):
        load({"name": "parquet", "path": write(tmp_path / "x.parquet", ["hello there"])})
    pq.write_table(pa.Table.from_pylist([qa("a"), qa(None)]), tmp_path / "y.parquet")
    with pytest.raises(ConfigError, match=r"y\.parquet:2: no question"):
        load({"name": "parquet", "path": str(tmp_path / "y.parquet")})


def test_huggingface_from_local_folders(tmp_path, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = datasets.Dataset.from_list([qa("a"), qa("b")])
    datasets.DatasetDict({"test": rows}).save_to_disk(str(tmp_path / "saved"))
    rows.save_to_disk(str(tmp_path / "single"))
    spec = {"name": "huggingface", "path": str(tmp_path / "saved"), "split": "test"}
    assert [(p.text, p.source) for p in load(spec)] == [("a", "saved"), ("b", "saved")]
    assert len(load({"name": "huggingface", "path": str(tmp_path / "single")})) == 2
    with pytest.raises(ConfigError, match="no split 'train'; it has test"):
        load({**spec, "split": "train"})
    folder = tmp_path / "files"
    folder.mkdir()
    write(folder / "train.jsonl", [qa("c")])
    assert [p.text for p in load({"name": "huggingface", "path": str(folder)})] == ["c"]
    with pytest.raises(ConfigError, match="files has no split 'valid'; it has train"):
        load({"name": "huggingface", "path": str(folder), "split": "valid"})


def splits(train, held_out, *, num_eval=None, seed=0, **data):
    config = DataConfig.model_validate({"train": train, "eval": held_out, **data})
    return load_splits(config, CharTokenizer(), max_prompt_tokens=200, seed=seed, num_eval=num_eval)


def test_training_rows_that_are_in_eval_are_left_out_and_counted(tmp_path):
    train = {"name": "jsonl", "path": write(tmp_path / "train.jsonl", [qa("What is 1+1?"), qa("b"), qa("c"), qa("c")])}
    held_out = {"name": "jsonl", "path": write(tmp_path / "eval.jsonl", [qa("what is  1+1?"), qa("d"), qa("b")])}
    both = splits(train, held_out, num_eval=2)
    assert [p.text for p in both.eval] == ["what is  1+1?", "d"]
    assert [p.text for p in both.train] == ["b", "c"]
    assert both.counts == {"train/in_eval": 1, "train/repeats": 1}
    with pytest.raises(ConfigError, match=r"no prompts \(left out: 4 in_eval\)"):
        splits(train, train)


def test_without_eval_all_rows_train(tmp_path):
    both = splits(jsonl(tmp_path, [qa("a")]), None)
    assert (len(both.train), both.eval) == (1, [])


def test_one_id_for_two_questions_of_the_two_splits_is_refused(tmp_path):
    options = {"id_field": "id", "source": "mine"}
    train = {"name": "jsonl", "path": write(tmp_path / "train.jsonl", [qa("a", id=1)]), **options}
    held_out = {"name": "jsonl", "path": write(tmp_path / "eval.jsonl", [qa("b", id=1)]), **options}
    with pytest.raises(ConfigError, match="such as 'mine-1'"):
        splits(train, held_out)


def test_a_real_tokenizer_agrees(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {chr(c): c for c in range(128)} | {"<s>": 128}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, bos_token="<s>")
    tokenizer.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (prompt,) = load(jsonl(tmp_path, [qa("1+1?")]), tokenizer=tokenizer)
    assert prompt.token_ids[0] == 128
    assert decode(prompt.token_ids[1:]) == "[user]1+1?[assistant]"


def test_spec_as_a_bare_name_is_refused_for_what_it_lacks():
    with pytest.raises(ConfigError, match="'reasoning_gym' needs size"):
        load(Spec(name="reasoning_gym"))


def named(tmp_path, name, questions, **options):
    """A JSONL source of its own file."""
    return {"name": "jsonl", "path": write(tmp_path / f"{name}.jsonl", [qa(q) for q in questions]), **options}


def sources_of(both):
    return [(source.name, source.weight, [p.text for p in source.prompts]) for source in both.sources]


def test_several_sources_of_different_kinds_are_one_set_each(tmp_path):
    rows = [{"problem": f"p{i}", "answer": "3", "data_source": "aime"} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    parquet = {"name": "parquet", "path": str(tmp_path / "a.parquet")}
    gym = {"name": "reasoning_gym", "task": "gcd", "size": 4, "seed": 1}
    jsonl_spec = named(tmp_path, "mine", ["q0", "q1", "q2", "q3"])
    both = splits([jsonl_spec, gym], [parquet, named(tmp_path, "held", ["h0", "h1"])])
    assert [p.source for p in both.eval] == ["aime"] * 3 + ["held"] * 2
    assert [(name, weight) for name, weight, _ in sources_of(both)] == [("mine", 4), ("gcd", 4)]
    assert [p.source for p in both.train] == ["mine"] * 4 + ["gcd"] * 4


def test_a_single_source_is_a_list_of_one(tmp_path):
    spec = named(tmp_path, "one", ["a", "b"])
    assert splits(spec, None) == splits([spec], None)


def test_a_label_renames_prompts_and_is_the_sources_name(tmp_path):
    train = [named(tmp_path, "x", ["a", "b"], label="easy", weight=3), named(tmp_path, "y", ["c"], weight=1)]
    both = splits(train, None)
    assert sources_of(both) == [("easy", 3, ["a", "b"]), ("y", 1, ["c"])]
    assert {p.source for p in both.train} == {"easy", "y"}
    assert both.train[0].prompt_id.startswith("easy-")


def test_two_sources_of_one_name_are_refused(tmp_path):
    chain_sum = {"name": "reasoning_gym", "task": "chain_sum", "size": 3, "seed": 1}
    digits = {**chain_sum, "parameters": {"min_digits": 3, "max_digits": 3}}
    with pytest.raises(
        ConfigError, match=r"data\.train: sources 1 and 2 of the list both .*'chain_sum'; give .*`label`"
    ):
        splits([chain_sum, digits], None)
    both = splits([chain_sum, {**digits, "label": "long"}], None)
    assert [source.name for source in both.sources] == ["chain_sum", "long"]
    with pytest.raises(ConfigError, match=r"data\.eval: sources 1 and 2"):
        splits(named(tmp_path, "x", ["a"]), [chain_sum, digits])


def test_one_id_in_two_sources_is_refused(tmp_path):
    one = named(tmp_path, "one", ["a"], label="a-b")
    other = {"name": "jsonl", "path": write(tmp_path / "o.jsonl", [qa("q", id="b-1"), qa("r", id="2")])}
    numbered = {"name": "jsonl", "path": write(tmp_path / "n.jsonl", [qa("s", id=1)]), "id_field": "id", "label": "a-b"}
    assert len(splits([one, {**other, "id_field": "id"}], None).train) == 3
    with pytest.raises(ConfigError, match="prompt id 'a-b-1' comes from two sources"):
        splits([numbered, {**other, "id_field": "id", "label": "a"}], None)


def test_a_question_of_an_earlier_source_is_a_repeat_in_a_later_one(tmp_path):
    train = [named(tmp_path, "x", ["a", "b"]), named(tmp_path, "y", ["b", "c", "d"])]
    both = splits(train, named(tmp_path, "z", ["C"]))
    assert [texts for _, _, texts in sources_of(both)] == [["a", "b"], ["d"]]
    assert both.counts == {"train/repeats": 1, "train/in_eval": 1}


def test_weights_are_given_for_all_sources_or_for_none(tmp_path):
    x, y = named(tmp_path, "x", ["a"], weight=2), named(tmp_path, "y", ["b"])
    with pytest.raises(ConfigError, match=r"data\.train: 1 of 2 sources have a `weight`"):
        splits([x, y], None)
    with pytest.raises(ConfigError, match=r"data\.eval: 1 of 2 sources"):
        splits(named(tmp_path, "z", ["c"]), [x, y])


def test_bad_rows_are_counted_for_each_source(tmp_path):
    x = {"name": "jsonl", "path": write(tmp_path / "x.jsonl", [qa("a"), "{broken"])}
    y = {"name": "jsonl", "path": write(tmp_path / "y.jsonl", ["{broken", qa("b")])}
    assert splits([x, y], None, skip_bad_rows=1).counts == {"train/bad_rows": 2}
    with pytest.raises(ConfigError, match=r"x\.jsonl:2.*bad row 1"):
        splits([x, y], None)


@pytest.mark.parametrize(
    ("weights", "num_eval", "parts"),
    [
        ((None, None), 4, (2, 2)),
        ((None, None), 7, (5, 2)),  # the short one gives all it has, the other the rest
        ((3, 1), 4, (3, 1)),
        ((1, 3), 3, (1, 2)),
        ((None, None), None, (6, 2)),
        ((None, None), 50, (6, 2)),
    ],
)
def test_held_out_prompts_are_split_by_weight_and_taken_from_each_start(tmp_path, weights, num_eval, parts):
    sets = [("x", [f"x{i}" for i in range(6)], weights[0]), ("y", ["y0", "y1"], weights[1])]
    held_out = [named(tmp_path, name, texts, **({"weight": w} if w else {})) for name, texts, w in sets]
    both = splits(named(tmp_path, "z", ["z", "x5"]), held_out, num_eval=num_eval)
    wanted = [text for (_, texts, _), part in zip(sets, parts, strict=True) for text in texts[:part]]
    assert [p.text for p in both.eval] == wanted
    assert [p.text for p in both.train] == [text for text in ("z", "x5") if text not in wanted]


def test_a_source_named_all_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must not be named 'all'"):
        splits(named(tmp_path, "all", ["a"]), None)
    with pytest.raises(ConfigError, match=r"data\.eval: .*must not be named 'all'"):
        splits(named(tmp_path, "x", ["a"]), named(tmp_path, "y", ["b"], label="all"))


def test_a_source_of_many_names_is_called_by_the_first(tmp_path):
    rows = [qa(f"q{i}", data_source=f"s{i}") for i in range(5)]
    spec = {"name": "jsonl", "path": write(tmp_path / "x.jsonl", rows)}
    assert [source.name for source in splits(spec, None).sources] == ["s0 + 4 more"]
