//! Every relative link in a Markdown file has its target file and heading.

use crate::tree::Tree;

/// Dead links.
fn dead_links(tree: &Tree) -> Vec<String> {
    let mut findings = Vec::new();
    for (path, text) in tree.ending(".md") {
        for (line, target) in links(text) {
            if let Some(reason) = dead(tree, path, &target) {
                findings.push(format!("{path}:{line}: `{target}`: {reason}"));
            }
        }
    }
    findings
}

/// Why a link is dead; none if it is not, or leads out of the repository.
fn dead(tree: &Tree, from: &str, target: &str) -> Option<&'static str> {
    if target.contains("://") || target.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = target.split_once('#').map_or((target, None), |(file, part)| (file, Some(part)));
    let path = if file.is_empty() { Some(from.to_owned()) } else { beside(from, file) };
    let Some(path) = path.filter(|path| path.is_empty() || tree.has(path)) else {
        return Some("no such file");
    };
    let text = tree.text(&path).filter(|_| path.ends_with(".md"))?;
    let known = heading.is_none_or(|heading| headings(text).any(|anchor| anchor == heading));
    (!known).then_some("no such heading")
}

/// The path from the root of a file that is named relative to another; none if it lies outside.
fn beside(from: &str, target: &str) -> Option<String> {
    let mut parts: Vec<_> = from.split('/').collect();
    parts.pop();
    for part in target.trim_end_matches('/').split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()?),
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The lines outside of code blocks, counted from 1, without the text between backticks.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let start = line.trim_start();
        if start.starts_with("```") || start.starts_with("~~~") {
            fenced = !fenced;
            return None;
        }
        let spoken: String = line.split('`').step_by(2).collect::<Vec<_>>().join("` `");
        (!fenced).then_some((index + 1, spoken))
    })
}

/// The targets of all links, with their lines: `[text](target)`, `[text](<target> "title")` and `[name]: target`.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text) {
        let inline =
            line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target);
        let definition =
            line.strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, target)| target);
        for target in inline.chain(definition) {
            let target = target.split_whitespace().next().unwrap_or_default();
            found.push((number, target.trim_start_matches('<').trim_end_matches('>').to_owned()));
        }
    }
    found
}

/// The anchors of all headings, as the usual renderers make them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    let mut fenced = false;
    text.lines().filter_map(move |line| {
        fenced ^= line.trim_start().starts_with("```");
        let title = line.strip_prefix('#').filter(|_| !fenced)?.trim_start_matches('#').trim();
        let kept = title.to_lowercase().replace(' ', "-");
        Some(kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{assert_none, assert_one};

    #[test]
    fn repository_links_resolve() {
        assert_none(&dead_links(&Tree::of_repository().unwrap()));
    }

    fn found(text: &str) -> Vec<String> {
        dead_links(&Tree::of(&[
            ("docs/here.md", text),
            ("docs/there.md", "# A `b` & c\n```\n# no\n```\n"),
            ("nats/", ""),
            ("nats/server.conf", ""),
        ]))
    }

    #[test]
    fn valid_links_pass() {
        assert_none(&found(
            "[a](there.md) [b](../nats/server.conf \"b\") [c](<there.md#a-b--c>) [d](../nats/)",
        ));
        assert_none(&found(
            "# Here\n[a](#here) [b](https://example.org/x) [c](mailto:a@example.org)\n\n[d]: there.md",
        ));
        assert_none(&found("`[a](gone.md)`\n```\n[b](gone.md)\n```\n"));
    }

    #[test]
    fn dead_links_are_found() {
        assert_one(&found("\n[a](gone.md)"), "docs/here.md:2: `gone.md`: no such file");
        assert_one(&found("[a](there.md) and [b](../../outside.md)"), "outside.md");
        assert_one(&found("[a]: gone.md"), "gone.md");
        assert_one(&found("[a](there.md#no)"), "no such heading");
        assert_one(&found("[a](#nowhere)"), "no such heading");
    }
}
