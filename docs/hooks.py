"""What a page shows of another file is cut from it when the site is built, and never out of date.

A page asks for it in a fence, which GitHub shows as it stands:

    ```cut
    cleanrl_cc/td3.py: Agent.update_critic
    ```

That is a class or function of a Python file, or the section under a heading of a Markdown file.
"""

import ast
import re
import textwrap
from pathlib import Path

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).resolve().parents[1]
FENCE = re.compile(r"^```cut\n(\S+): (.+)\n```$", re.M)


def on_page_markdown(markdown: str, **_) -> str:
    return FENCE.sub(lambda match: cut(*match.groups()), markdown)


def cut(file: str, name: str) -> str:
    """Markdown for the part `name` of `file`; PluginError, which ends the build, where there is none."""
    try:
        text = (ROOT / file).read_text()
        return section(text, name) if file.endswith(".md") else definition(text, name, file)
    except (OSError, LookupError) as error:
        raise PluginError(f"A page wants {name!r} of {file}, which is not there.") from error


def definition(text: str, name: str, file: str) -> str:
    """The class or function `name`, which may be dotted, as a code block."""
    node = ast.parse(text)
    for part in name.split("."):
        node = {child.name: child for child in node.body if hasattr(child, "name")}[part]
    first = min(part.lineno for part in (node, *node.decorator_list))
    code = textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))
    return f'```python title="{file}, line {first}"\n{code}\n```'


def section(text: str, heading: str) -> str:
    """What stands under a heading of the second or third level, up to the next."""
    _, *sections = re.split(r"^#{2,3} ", text, flags=re.M)
    return dict(part.split("\n", 1) for part in sections)[heading].strip()
