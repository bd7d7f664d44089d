"""Reward functions as they are written for other trainers."""


def trl(prompts, completions, answer, **kwargs):
    assert len(prompts) == len(completions) == len(answer) == 1
    return [1.0 if a in c else 0.0 for c, a in zip(completions, answer, strict=True)]


async def trl_async(completions, ground_truth, **kwargs):
    return [1.0 if g in c else -1.0 for c, g in zip(completions, ground_truth, strict=True)]


def trl_messages(completions, solution, **kwargs):
    return [float(s in c[0]["content"]) for c, s in zip(completions, solution, strict=True)]


def trl_columns(completions, difficulty, **kwargs):
    return [d / 10 for d in difficulty]


def trl_none(completions, **kwargs):
    return [None for _ in completions]


def trl_bare_number(completions, **kwargs):
    return 1.0


def verl(data_source, solution_str, ground_truth, extra_info=None):
    assert data_source == "src"
    return 1.0 if ground_truth in solution_str else 0.0


def verl_mapping(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    right = ground_truth in solution_str
    return {"score": 1.0 if right else -1.0, "acc": right, "pred": solution_str[-2:]}


def verl_extra(solution_str, ground_truth, extra_info):
    return float(extra_info["index"] == 7)


def verl_without_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"acc": True}


async def slime(args, sample, **kwargs):
    assert sample.metadata == {"index": 7}
    return 1 if sample.label in sample.response else 0


def slime_args(args, sample):
    return {"score": args.bonus if sample.label in sample.response else 0.0}


def ours_zero_one(prompt, response):
    return 1 if prompt.answer in response else 0


async def ours_async(prompt, response):
    return prompt.answer in response


class Scorer:
    """verl's form as an instance."""

    def __init__(self, right=1.0):
        self.right = right

    def __call__(self, data_source, solution_str, ground_truth, extra_info=None):
        return self.right if ground_truth in solution_str else 0.0


def unknown(response, reference, question):
    return 1.0


def one(response):
    return 1.0


def big(completions, **kwargs):
    return [2.5 if "34" in c else -7.0 for c in completions]
