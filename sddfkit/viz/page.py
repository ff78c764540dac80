"""Pieces of HTML: escaped text, tables, figures, foldable parts, and the page around them."""

import html
from collections.abc import Iterable, Sequence
from importlib import resources

# Rows that a table shows before the rest is folded away.
SHOWN_ROWS = 8


class Markup(str):
    """HTML that is ready to be used; any other string is text and will be escaped."""


def text(value: object) -> Markup:
    """Return `value` for use in HTML; Markup passes unchanged."""
    return value if isinstance(value, Markup) else Markup(html.escape(str(value)))


def element(tag: str, content: object, **attributes: str) -> Markup:
    """Return `<tag …>content</tag>`; content is escaped unless it is Markup, `class_` becomes class."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items()
    )
    return Markup(f"<{tag}{written}>{text(content)}</{tag}>")


def joined(parts: Iterable[object], separator: str = "\n") -> Markup:
    """Return the parts, each escaped unless Markup, one after the other."""
    return Markup(separator.join(text(part) for part in parts))


def paragraph(*sentences: object, class_: str = "") -> Markup:
    """Return a paragraph of the sentences that are not empty."""
    content = joined((s for s in sentences if s), " ")
    return element("p", content, class_=class_) if class_ else element("p", content)


def table(
    caption: str, heads: Sequence[object], rows: Sequence[Sequence[object]], *, numeric: Sequence[int] = ()
) -> Markup:
    """Return a table with caption and headers; the first cell heads its row, columns in `numeric` align right."""

    def css(column: int) -> dict[str, str]:
        return {"class_": "numeric"} if column in numeric else {}

    head = joined((element("th", name, scope="col", **css(i)) for i, name in enumerate(heads)), "")
    body = joined(
        element(
            "tr",
            joined(
                (
                    element("td", cell, data_label=str(heads[i]), **css(i))
                    if i
                    else element("th", cell, scope="row", **css(i))
                    for i, cell in enumerate(row)
                ),
                "",
            ),
        )
        for row in rows
    )
    content = Markup(f"{element('caption', caption)}<thead><tr>{head}</tr></thead><tbody>{body}</tbody>")
    return Markup(f'<div class="scroll">{element("table", content)}</div>')


def folded(summary: object, content: Markup) -> Markup:
    """Return a part that opens on a click (and when printed)."""
    return Markup(f"<details><summary>{text(summary)}</summary>{content}</details>")


def long_table(
    caption: str,
    heads: Sequence[object],
    rows: Sequence[Sequence[object]],
    *,
    numeric: Sequence[int] = (),
    shown: int = SHOWN_ROWS,
) -> Markup:
    """Return a table whose rows beyond `shown` are folded away under the same heads."""
    if len(rows) <= shown + 2:
        return table(caption, heads, rows, numeric=numeric)
    rest = table(f"{caption}, continued", heads, rows[shown:], numeric=numeric)
    first = table(caption, heads, rows[:shown], numeric=numeric)
    return joined([first, folded(f"{len(rows) - shown} more rows", rest)])


def figure(drawing: str, caption: object) -> Markup:
    """Return a figure with its caption."""
    return Markup(f'<figure class="plot">{drawing}{element("figcaption", caption)}</figure>')


def section(key: str, title: object, *parts: object) -> Markup:
    """Return a section with its heading, which the page's contents point to."""
    heading = element("h2", title, id=f"{key}-title")
    content = joined([heading, *(part for part in parts if part)])
    return element("section", content, id=key, aria_labelledby=f"{key}-title")


def document(title: str, contents: Sequence[tuple[str, str]], body: Markup, scripts: Sequence[str]) -> str:
    """Return the whole page; style and scripts are inlined, nothing is loaded.

    Parameters
    ----------
    contents : (section key, short name) for the navigation.
    scripts : JavaScript texts, run in this order at the end of the page.
    """
    links = joined((element("a", name, href=f"#{key}") for key, name in contents), "")
    code = "\n".join(f"<script>{script}</script>" for script in scripts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{text(title)}</title>
<link rel="icon" href="data:,">
<style>
{static("parts.css")}{static("report.css")}
</style>
</head>
<body class="sddfkit">
<a class="skip" href="#main">Skip to the results</a>
<nav aria-label="Contents">{links}</nav>
<main id="main">
{body}
</main>
{code}
</body>
</html>
"""


def static(name: str) -> str:
    """Return the text of a file that ships with the package."""
    return (resources.files("sddfkit.viz") / "static" / name).read_text(encoding="utf-8")
