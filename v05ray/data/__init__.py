"""Prompts: read from what people have, template, tokenise, check, and deal out in batches.

- `rows`        one record of a file, as a `Row` or as a `BadRow` with file, row and reason
- `messages`    the messages of a record, in the forms that people store them in
- `files`       records of local files: JSON in its forms, packed or not, and Parquet
- `tables`      records of CSV and TSV files
- `paths`       which files a path means: one, a pattern, a folder of shards
- `hub`         records of data sets of Hugging Face's `datasets`, by split and slice
- `sources`     the registry, and the file formats: `jsonl`, `parquet`, `csv`, `huggingface`
- `procedural`  `reasoning_gym`: generated tasks with their own scorers
- `templates`   rows to token ids: chat template, texts around the question
- `loading`     sources to `Prompt`s: `load_prompts`, `load_splits`
- `stream`      `PromptStream`: batches from one source or several by weight; its cursor is checkpointed
"""

from v05ray.data.loading import PromptTooLong, Splits, load_prompts, load_splits
from v05ray.data.sources import sources
from v05ray.data.stream import PromptSource, PromptStream

__all__ = ["PromptSource", "PromptStream", "PromptTooLong", "Splits", "load_prompts", "load_splits", "sources"]
