"""Reads a report's page as a browser does."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class PageReader(HTMLParser):
    """What a page has: its elements, attributes, ids and references. Refuses elements that don't nest.

    Attributes:
        tags: every element's.
        attributes: name and value of every element's.
        ids: of the page.
        references: what the page refers to.
    """

    VOID = frozenset({"meta", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []
        self.ids = [value for name, value in self.attributes if name == "id"]
        self.references = [value for name, value in self.attributes if name.endswith(("href", "src"))]
        self.references += [found for _, value in self.attributes for found in re.findall(r"url\(([^)]*)\)", value)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag


def check_page(text: str) -> PageReader:
    """Checks what holds for every report: it fetches and runs nothing, and knows light, dark, phone and paper."""
    page = PageReader(text)
    assert len(set(page.ids)) == len(page.ids)
    assert {reference.strip("\"'") for reference in page.references} <= {f"#{name}" for name in page.ids}
    assert "://" not in text
    assert not re.search(r"@import|<!DOCTYPE svg", text)
    assert not {"script", "link", "iframe", "img", "object", "embed", "form"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("srcset", "action", "data")]
    assert ("content", "width=device-width, initial-scale=1") in page.attributes
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "url(" not in style
    assert "color-scheme: light dark" in style
    assert "@media print" in style
    (light,) = re.findall(r"^  :root \{(.*?)\}", style, re.MULTILINE)
    (dark,) = re.findall(r"\(prefers-color-scheme: dark\) \{ :root \{(.*?)\}", style)
    assert "prefers-color-scheme: light" not in style
    colours = set(re.findall(r"--([a-z]+):", light))
    assert set(re.findall(r"--([a-z]+):", dark)) == colours
    assert set(re.findall(r"var\(--([a-z0-9]+)\)", text)) <= colours | {"share"}
    assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)), "colours are the page's"
    return page
