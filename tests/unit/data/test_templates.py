"""Chat templates of real tokenizers, those that refuse a role, and the texts around a question."""

import json
from collections.abc import Sequence

import pytest

from tests.unit.data.tokenizing import real_tokenizer
from v05ray.config import DataConfig
from v05ray.data import load_prompts
from v05ray.data.rows import BadRow, Row
from v05ray.data.templates import templating
from v05ray.errors import ConfigError

PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + PLAIN
)
ALTERNATING = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "[{{ m.role }}]{{ m.content | trim }}{% endfor %}"
)
DROPS_SYSTEM = "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"


def config(**data) -> DataConfig:
    return DataConfig.model_validate({"train": "jsonl", **data})


def row(*messages: tuple[str, str]) -> Row:
    return Row(messages, "2", "data", "f.jsonl:7")


USER = row(("user", "1+1?"))
SYSTEM = row(("system", "Be brief."), ("user", "1+1?"))
TALK = row(("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"))
TWICE = row(("user", "Hello."), ("user", "1+1?"))


class Recorder:
    """Keeps the texts that the tokenizer is given."""

    def __init__(self, chat_template: str | None) -> None:
        self._tokenizer = real_tokenizer(chat_template)
        self.texts: list[str] = []

    def __getattr__(self, name: str):
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Sequence[str], **options):
        self.texts += texts
        return self._tokenizer(texts, **options)


def rendered(one: Row, template: str | None = PLAIN, **data) -> str:
    tokenizer = Recorder(template)
    (tokens,) = templating(config(**data), tokenizer)([one])
    assert not isinstance(tokens, BadRow), tokens
    (text,) = tokenizer.texts
    return text


def reason(one: Row, template: str | None = PLAIN, **data) -> str:
    (bad,) = templating(config(**data), real_tokenizer(template))([one])
    assert isinstance(bad, BadRow)
    assert bad.where == "f.jsonl:7"
    assert "\n" not in bad.reason
    return bad.reason


def test_texts_around_the_question_are_where_they_should_be():
    text = rendered(USER, prefix="Solve: ", suffix=" Box it.", system_prompt="Be brief.", assistant_prefix="<think>\n")
    assert text == "[system]Be brief.[user]Solve: 1+1? Box it.[assistant]<think>\n"
    assert rendered(USER, prefix="Q: ", suffix="\nA:", chat_template=False) == "Q: 1+1?\nA:"


def test_only_the_last_question_of_a_conversation_gets_prefix_and_suffix():
    assert rendered(TALK, prefix="Q: ", suffix=".") == "[user]1+1?[assistant]2[user]Q: 2+2?.[assistant]"


def test_a_template_is_given_what_the_job_sets_for_it():
    assert rendered(USER).endswith("[assistant]")
    assert rendered(USER, chat_template_kwargs={"enable_thinking": True}).endswith("[assistant]")
    assert rendered(USER, chat_template_kwargs={"enable_thinking": False}).endswith("[assistant]<think></think>")


def test_a_template_of_ones_own_takes_the_tokenizers_place(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}{{ more }}")
    own = {"chat_template_file": str(file), "chat_template_kwargs": {"more": "Go."}}
    assert rendered(SYSTEM, **own) == "<system>Be brief.\n<user>1+1?\nGo."
    assert rendered(SYSTEM, None, **own) == "<system>Be brief.\n<user>1+1?\nGo."


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"chat_template_kwargs": {"enable_thinkin": False}}, "'enable_thinkin', which the tokenizer's chat template"),
        ({"chat_template_kwargs": {"tokenize": True}}, "must not set 'tokenize'"),
        ({"chat_template_kwargs": {"return_dict": True}}, "must not set 'return_dict'"),
        # Words of the template that are no variables of it.
        ({"chat_template_kwargs": {"role": "x"}}, "'role', which the tokenizer's chat template"),
        ({"chat_template_kwargs": {"assistant": "x"}}, "'assistant', which the tokenizer's chat template"),
        ({"chat_template_kwargs": {"think": False}}, "'think', which the tokenizer's chat template"),
        ({"chat_template_kwargs": {"enable_thinking": "false"}}, "to the text 'false', .*without quotes"),
        ({"prefix": "Problem: {question}\nSolution:"}, r"data\.prefix holds '\{question\}', .*data\.suffix"),
        ({"suffix": " {{ problem }}"}, r"data\.suffix holds '\{\{ problem \}\}'"),
        ({"system_prompt": "Answer {Prompt}."}, r"data\.system_prompt holds"),
        ({"prefix": "{question}", "chat_template": False}, r"data\.prefix holds"),
        ({"chat_template_file": "/gone.jinja"}, r"chat_template_file /gone\.jinja cannot be read"),
        ({"chat_template": False, "chat_template_file": "x"}, "chat_template_file needs data.chat_template: true"),
        ({"chat_template": False, "chat_template_kwargs": {"a": 1}}, "chat_template_kwargs needs"),
        ({"chat_template": False, "assistant_prefix": "a"}, "put its text into data.suffix"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_any_row(data, said):
    with pytest.raises(ConfigError, match=said):
        templating(config(**data), real_tokenizer(PLAIN))


def test_texts_in_braces_that_are_no_place_for_the_question_are_put_as_they_are():
    for suffix in (r" Put it in \boxed{}.", r" \text{problem}", ' As JSON: {"question": 1}', " {answer}"):
        assert rendered(USER, suffix=suffix) == f"[user]1+1?{suffix}[assistant]"


def test_a_variable_that_a_template_sets_itself_where_it_is_not_given_may_be_given():
    template = (
        "{% if not date is defined %}{% set date = 'today' %}{% endif %}"
        "{% macro said(m) %}{{ m.content }}{% endmacro %}"
        "{% for m in messages %}{% generation %}{{ said(m) }}{% endgeneration %}{% endfor %} {{ date }}"
    )
    assert rendered(USER, template) == "1+1? today"
    assert rendered(USER, template, chat_template_kwargs={"date": "1 May"}) == "1+1? 1 May"


def test_what_the_template_begins_the_response_with_is_not_put_there_twice():
    thinks = PLAIN + "<think>{{ '\n' }}"
    for prefix in ("<think>\n", "<think>"):
        with pytest.raises(ConfigError, match=r"begins the response with '<think>' already, .*leave data"):
            rendered(USER, thinks, assistant_prefix=prefix)
    assert rendered(USER, thinks, assistant_prefix="\n").endswith("[assistant]<think>\n\n")
    assert rendered(USER, thinks, assistant_prefix="Well").endswith("[assistant]<think>\nWell")


def test_the_token_that_begins_a_raw_text_is_not_put_there_twice():
    from tokenizers.processors import TemplateProcessing

    tokenizer = real_tokenizer(None)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 128)])
    with pytest.raises(ConfigError, match=r"data\.prefix begins with '<s>', which the tokenizer puts .*take it out"):
        templating(config(chat_template=False, prefix="<s>Q: "), tokenizer)([USER])
    (ids,) = templating(config(chat_template=False, prefix="Q: "), tokenizer)([USER])
    assert ids == (128, *map(ord, "Q: 1+1?"))
    (ids,) = templating(config(chat_template=False, prefix="<s>Q: "), real_tokenizer(None))([USER])
    assert ids == (128, *map(ord, "Q: 1+1?"))


def test_a_byte_order_mark_of_a_template_file_is_in_no_prompt(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_bytes(b"\xef\xbb\xbf" + PLAIN.encode())
    assert rendered(USER, None, chat_template_file=str(file)) == "[user]1+1?[assistant]"


def test_a_message_that_is_dropped_in_the_middle_is_named_and_stripped_thinking_is_not():
    last_turns = "{% for m in messages %}{% if loop.first or loop.last %}{{ m.content }}{% endif %}{% endfor %}"
    longer = row(("system", "Be brief."), ("user", "1+1?"), ("assistant", "2"), ("user", "2+2?"))
    assert "leaves out or changes the user's message" in reason(longer, last_turns)
    strips = "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}"
    thought = row(("user", "1+1?"), ("assistant", "<think>Hm</think>2"), ("user", "2+2?"))
    assert rendered(thought, strips) == "[user]1+1?[assistant]2[user]2+2?"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{% for %}", "no valid template: .*line 1"),
        (" \n", "is empty"),
        (json.dumps({"chat_template": PLAIN}), "is JSON with a template in it; .*its 'chat_template' into a file"),
    ],
)
def test_a_file_that_is_no_template_is_refused(tmp_path, content, said):
    file = tmp_path / "broken.jinja"
    file.write_text(content)
    with pytest.raises(ConfigError, match=rf"broken\.jinja .*{said}"):
        templating(config(chat_template_file=str(file)), real_tokenizer(PLAIN))([USER])


@pytest.mark.parametrize("template", [NO_SYSTEM, ALTERNATING, DROPS_SYSTEM])
def test_a_template_without_a_system_role_is_named_with_the_fix(template):
    said = reason(USER, template, system_prompt="Be brief.")
    assert "the tokenizer's chat template refuses the messages (system, user): " in said
    assert "set data.system_prompt: null and put its text into data.prefix, or set data.chat_template_file" in said
    assert "put the row's system message into its question" in reason(SYSTEM, template)
    assert "[user]1+1?" in rendered(USER, template)


def test_roles_that_do_not_take_turns_are_named_with_the_fix():
    said = reason(TWICE, ALTERNATING)
    assert "(user, user): Conversation roles must alternate" in said
    assert "let the row's user and assistant messages take turns" in said
    assert rendered(TALK, ALTERNATING) == "[user]1+1?[assistant]2[user]2+2?"


@pytest.mark.parametrize("template", ["{{ messages[9].content }}", "{{ messages + 1 }}", "{{ 1 / 0 }}", "{{ x.y }}"])
def test_whatever_a_template_raises_is_a_line(template):
    assert "refuses the messages (user): " in reason(USER, template)


def test_what_fails_for_every_row_is_no_bad_row():
    with pytest.raises(ConfigError, match=r"the tokenizer's chat template is no valid template: .*no_filter"):
        templating(config(), real_tokenizer("{{ messages | no_filter }}"))([USER])


def test_a_refused_role_ends_loading_with_file_and_row_or_is_skipped(tmp_path):
    file = tmp_path / "sums.jsonl"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}]
    rows = [{"question": "b", "answer": "2"}, {"prompt": messages, "answer": "2"}]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))

    def load(**data):
        data_config = config(train={"name": "jsonl", "path": str(file)}, **data)
        return load_prompts(data_config.train, data_config, real_tokenizer(NO_SYSTEM), max_prompt_tokens=99, seed=0)

    with pytest.raises(
        ConfigError, match=r"sums\.jsonl:2: the tokenizer's chat template refuses .*System role not supp"
    ):
        load()
    assert [prompt.text for prompt in load(skip_bad_rows=1)] == ["b"]


@pytest.mark.parametrize("chat_template", [True, False])
@pytest.mark.parametrize("question", ["a<|im_start|>assistant", "<s>1+1?"])
def test_control_tokens_in_a_question_are_refused(question, chat_template):
    assert "which the tokenizer reads as a control token" in reason(
        row(("user", question)), chat_template=chat_template
    )


@pytest.mark.parametrize("question", ["<|im_end|>?", "< s >", "a<think>b", "5! = 120"])
def test_text_that_is_no_control_token_of_this_tokenizer_is_text(question):
    assert rendered(row(("user", question))) == f"[user]{question}[assistant]"


def test_control_tokens_in_earlier_messages_are_refused_and_the_jobs_own_are_not():
    assert "'<s>'" in reason(row(("system", "<s>"), ("user", "1+1?")))
    assert rendered(USER, prefix="<s>") == "[user]<s>1+1?[assistant]"
