//! Markdown documents for tests: tables and code blocks, found by the heading above them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// A document of the repository.
pub(crate) struct Document {
    path: &'static str,
    text: String,
}

/// A block of code, and the comment right above it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block {
    /// The last heading above the block.
    pub(crate) heading: String,
    /// The text of the comment, if the line above the block is one.
    pub(crate) comment: Option<String>,
    /// The code.
    pub(crate) code: String,
    /// The number of its first line, counted from 1.
    pub(crate) line: usize,
}

impl Document {
    /// Reads a document by its path from the root of the repository.
    pub(crate) fn read(path: &'static str) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
        let text = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{path}: {error}"));
        Self { path, text }
    }

    /// The whole text.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The cells of the first table below a heading, without its head.
    pub(crate) fn rows(&self, heading: &str) -> Vec<Vec<String>> {
        let lines = self.text.lines().skip_while(|line| title(line) != Some(heading)).skip(1);
        let section = lines.take_while(|line| title(line).is_none());
        let table =
            section.skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
        let rows: Vec<_> = table.skip(2).map(cells).collect();
        assert!(!rows.is_empty(), "{}: no table below the heading {heading:?}", self.path);
        rows
    }

    /// The names in backticks in one column of such a table. Panics on duplicates.
    pub(crate) fn names(&self, heading: &str, column: usize) -> BTreeSet<String> {
        let rows = self.rows(heading);
        let mut names = BTreeSet::new();
        for name in rows.iter().flat_map(|row| quoted(&row[column])) {
            assert!(names.insert(name.clone()), "{}: {name} is there twice below {heading:?}", self.path);
        }
        names
    }

    /// All tables of the document, under any heading.
    pub(crate) fn all_rows(&self) -> Vec<Vec<String>> {
        let lines: Vec<_> = self.text.lines().collect();
        let is_rule = |line: &str| line.starts_with("|---");
        let is_head = |index: usize| lines.get(index + 1).is_some_and(|next| is_rule(next));
        let row = |(index, line): (usize, &&str)| {
            (line.starts_with('|') && !is_rule(line) && !is_head(index)).then(|| cells(line))
        };
        lines.iter().enumerate().filter_map(row).collect()
    }

    /// The fenced blocks of a language, in order.
    pub(crate) fn blocks(&self, language: &str) -> Vec<Block> {
        let mut blocks = Vec::new();
        let (mut heading, mut above) = ("", "");
        let mut lines = self.text.lines().zip(1..);
        while let Some((line, number)) = lines.next() {
            if let Some(fenced) = line.strip_prefix("```") {
                let body = lines.by_ref().map(|(line, _)| line).take_while(|line| !line.starts_with("```"));
                let code = body.collect::<Vec<_>>().join("\n");
                let comment = above.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
                if fenced == language {
                    blocks.push(Block {
                        heading: heading.to_owned(),
                        comment: comment.map(|comment| comment.trim().to_owned()),
                        code,
                        line: number + 1,
                    });
                }
            }
            heading = title(line).unwrap_or(heading);
            above = line;
        }
        blocks
    }
}

/// The texts in backticks.
pub(crate) fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(ToOwned::to_owned).collect()
}

/// The text of a heading, if the line is one.
fn title(line: &str) -> Option<&str> {
    line.strip_prefix('#').map(|rest| rest.trim_start_matches('#').trim())
}

fn cells(line: &str) -> Vec<String> {
    line.trim().trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()
}

#[test]
fn tables_and_blocks_are_found_under_their_headings() {
    let text = "# A\n| x |\n|---|\n| `one` or `two` | b |\n\n## B\n| y |\n|---|\n| `three` |\n\
                <!-- run: shows it -->\n```sh\n# no heading\nls\n```\n```sh\nrm\n```\n```json\n{}\n```\n";
    let document = Document { path: "x.md", text: text.to_owned() };
    assert_eq!(document.names("A", 0), ["one", "two"].map(ToOwned::to_owned).into());
    assert_eq!(document.rows("B"), [["`three`"]]);
    assert_eq!(document.all_rows().len(), 2);
    let blocks = document.blocks("sh");
    assert_eq!(
        (blocks[0].heading.as_str(), blocks[0].code.as_str(), blocks[0].line),
        ("B", "# no heading\nls", 12)
    );
    assert_eq!(blocks[0].comment.as_deref(), Some("run: shows it"));
    assert_eq!((blocks.len(), &blocks[1].comment), (2, &None));
}
