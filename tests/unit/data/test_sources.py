import pytest

from v05ray.data.sources import sources
from v05ray.errors import ConfigError

FIELDS = {
    "question_field": str | None,
    "answer_field": str | None,
    "id_field": str | None,
    "answer_after": str | None,
    "require_answer": bool,
    "source": str | None,
}


@pytest.mark.parametrize("name", ["jsonl", "parquet", "csv", "huggingface"])
def test_every_source_that_reads_files_takes_the_same_options_for_its_fields(name: str):
    types = sources.option_types(name)
    assert {option: types[option] for option in FIELDS} == FIELDS
    own = {"path", "split", "subset"} if name == "huggingface" else {"path"}
    assert set(types) - set(FIELDS) == own
    assert (
        sources.resolved(name, {"path": "p", "id_field": "n"}).items()
        >= {"id_field": "n", "require_answer": True}.items()
    )


def test_what_a_source_lacks_or_does_not_take_is_named():
    with pytest.raises(ConfigError, match="data source 'csv' needs path"):
        sources.choose("csv", {})
    with pytest.raises(
        ConfigError, match="data source 'jsonl' has no option 'answer_feild'; did you mean 'answer_field'"
    ):
        sources.choose("jsonl", {"path": "p", "answer_feild": "a"})
    with pytest.raises(ConfigError, match="require_answer: expected true or false, got 'no'"):
        sources.choose("parquet", {"path": "p", "require_answer": "no"})
