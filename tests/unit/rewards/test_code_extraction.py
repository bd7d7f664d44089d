"""Which program a response holds."""

import pytest

from v05ray.rewards.code.extraction import fenced_program, whole_program


@pytest.mark.parametrize(
    ("response", "program"),
    [
        ("```python\nx = 1\n```", "x = 1"),
        ("so:\n\n```py\nx = 1\ny = 2\n```\nand that is it", "x = 1\ny = 2"),
        ("```\nx = 1\n```", "x = 1"),
        ("```Python3\nx = 1\n```", "x = 1"),
        ("```python\nx = 1\n```\nor better\n```python\nx = 2\n```", "x = 2"),
        ("```python\nx = 1\n```\nwhich prints\n```\n1\n```", "x = 1"),
        ("```python\nx = 1\n```\nrun it:\n```bash\npython x.py\n```", "x = 1"),
        ('```python title="x.py"\nx = 1\n```', "x = 1"),
        ("~~~python\nx = 1\n~~~", "x = 1"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''"),
        ("  ```python\n  x = 1\n  ```", "  x = 1"),
        ("<think>```python\nx = 1\n```</think>```python\nx = 2\n```", "x = 2"),
        ("The code: ```python\nx = 1\n```", "x = 1"),
        ("Use ```x``` inside.\n```python\nx = 1\n```", "x = 1"),
        ("```python\nx = 1 ```\n", None),
        ("<think>\n```python\nx = 1\n```\n</think>\n```python\nx = 2\n```", "x = 2"),
        ("<think>\n```python\nx = 1\n```\n</think>\nno", None),
        ("<think>\n```python\nx = 1\n```", None),
        ("```python\nx = 1", None),
        ("```python\nx = 1\n```\n```python\nx = 2", None),
        ("```js\nlet x = 1\n```", None),
        ("x = 1", None),
        ("", None),
    ],
)
def test_the_last_closed_block_of_python(response, program):
    found = fenced_program(response)
    assert found == program


def test_the_whole_response_without_its_thinking():
    assert whole_program("<think>hm</think>\nx = 1") == "\nx = 1"
    assert whole_program("<think>hm") is None
    assert whole_program(" \n") is None
