//! Rust source without its comments and literals, cut into tokens, with the test code marked.
//!
//! Not a parser: it knows just enough that a word in a comment or a string is never taken for code.

use crate::tree::Tree;

/// One Rust file.
pub(crate) struct Code<'a> {
    /// Its path from the root of the repository.
    pub(crate) path: &'a str,
    /// Its tokens in order.
    pub(crate) tokens: Vec<Token>,
}

/// A word, a `::`, or a single other character.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// As it is written; a raw identifier without its `r#`.
    pub(crate) text: String,
    /// Counted from 1.
    pub(crate) line: usize,
    /// Whether it is compiled for tests only.
    pub(crate) is_test: bool,
}

impl<'a> Code<'a> {
    /// Reads a file.
    pub(crate) fn new(path: &'a str, text: &str) -> Self {
        let mut tokens = cut(&blank(text));
        if path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("/tests.rs") {
            tokens.iter_mut().for_each(|token| token.is_test = true);
        } else {
            mark_tests(&mut tokens);
        }
        Self { path, tokens }
    }

    /// Every Rust file of the tree.
    pub(crate) fn all(tree: &'a Tree) -> impl Iterator<Item = Self> {
        tree.ending(".rs").map(|(path, text)| Self::new(path, text))
    }

    /// The places where these tokens stand one after the other: for each, the index of the first.
    pub(crate) fn find(&self, wanted: &[&str]) -> Vec<usize> {
        let here = |window: &[Token]| window.iter().zip(wanted).all(|(token, text)| token.text == *text);
        let windows = self.tokens.windows(wanted.len()).enumerate();
        windows.filter(|(_, window)| here(window)).map(|(index, _)| index).collect()
    }

    /// The text of a token; empty beyond the ends.
    pub(crate) fn text(&self, index: Option<usize>) -> &str {
        index.and_then(|index| self.tokens.get(index)).map_or("", |token| token.text.as_str())
    }

    /// Whether a token is test code.
    pub(crate) fn is_test(&self, index: usize) -> bool {
        self.tokens.get(index).is_some_and(|token| token.is_test)
    }

    /// A finding at a token.
    pub(crate) fn finding(&self, index: usize, message: &str) -> String {
        let line = self.tokens.get(index).map_or(0, |token| token.line);
        format!("{}:{line}: {message}", self.path)
    }
}

/// Whether a character may stand in a word.
fn is_word(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Replaces comments and literals by spaces; every line keeps its number.
fn blank(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let length =
            if code.ends_with(is_word) { quote(rest) } else { raw_string(rest).or_else(|| quote(rest)) };
        if let Some(length) = length.or_else(|| comment(rest)) {
            let (literal, tail) = rest.split_at(length);
            code.extend(literal.chars().map(|character| if character == '\n' { '\n' } else { ' ' }));
            rest = tail;
        } else {
            code.push(next);
            rest = rest.strip_prefix(next).unwrap_or_default();
        }
    }
    code
}

/// The length of the comment that begins here.
fn comment(text: &str) -> Option<usize> {
    if text.starts_with("//") {
        return Some(text.find('\n').unwrap_or(text.len()));
    }
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if depth == 0 {
            return None;
        } else if rest.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    Some(text.len())
}

/// The length of the raw string that begins here.
fn raw_string(text: &str) -> Option<usize> {
    let body = ["r", "br", "cr"].iter().find_map(|prefix| text.strip_prefix(prefix))?;
    let inner = body.trim_start_matches('#');
    let end = format!("\"{}", "#".repeat(body.len() - inner.len()));
    let inner = inner.strip_prefix('"')?;
    let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
    Some(text.len() - inner.len() + length)
}

/// The length of the string or character that begins here. A lifetime is neither.
fn quote(text: &str) -> Option<usize> {
    let mark = text.chars().next().filter(|mark| matches!(mark, '"' | '\''))?;
    let mut inner = text.char_indices().skip(1);
    if mark == '\'' {
        let (first, second) = (inner.next()?.1, inner.next());
        if first != '\\' {
            return second.filter(|(_, character)| *character == '\'').map(|(at, _)| at + 1);
        }
    }
    let mut escaped = false;
    for (at, character) in inner {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == mark => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

fn cut(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut push = |text: &str, line| tokens.push(Token { text: text.to_owned(), line, is_test: false });
    for (line, text) in code.lines().enumerate() {
        let mut rest = text.trim_start();
        while let Some(next) = rest.chars().next() {
            let raw = rest.strip_prefix("r#").filter(|name| name.starts_with(is_word));
            let start = raw.unwrap_or(rest);
            let length = match next {
                _ if is_word(next) => start.find(|character| !is_word(character)).unwrap_or(start.len()),
                ':' if rest.starts_with("::") => 2,
                _ => next.len_utf8(),
            };
            let (token, tail) = start.split_at(length);
            push(token, line + 1);
            rest = tail.trim_start();
        }
    }
    tokens
}

/// Marks what stands below each `#[cfg(test)]`: the rest of its attributes and the item itself.
fn mark_tests(tokens: &mut [Token]) {
    const ATTRIBUTE: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let mut at = 0;
    while at < tokens.len() {
        let Some((_, rest)) = tokens.split_at_mut_checked(at) else { return };
        if !rest.iter().map(|token| token.text.as_str()).take(ATTRIBUTE.len()).eq(ATTRIBUTE) {
            at += 1;
            continue;
        }
        let length = ATTRIBUTE.len() + item_length(rest.get(ATTRIBUTE.len()..).unwrap_or_default());
        rest.iter_mut().take(length).for_each(|token| token.is_test = true);
        at += length;
    }
}

/// How many tokens an item has: up to its `;`, or to the end of its first block in braces.
fn item_length(tokens: &[Token]) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" | "(" | "[" => depth += 1,
            "}" | ")" | "]" => {
                depth = depth.saturating_sub(1);
                if depth == 0 && token.text == "}" {
                    return index + 1;
                }
            }
            ";" if depth == 0 => return index + 1,
            _ => {}
        }
    }
    tokens.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<String> {
        Code::new("common/src/x.rs", source).tokens.into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_and_literals_are_not_code() {
        assert_eq!(texts("a // b\nc /* d /* e */ f */ g"), ["a", "c", "g"]);
        assert_eq!(
            texts(r#"a("b \" c", 'd', '\'', '\\', b"e", '"', f)"#),
            ["a", "(", ",", ",", ",", ",", "b", ",", ",", "f", ")"]
        );
        assert_eq!(texts("a r\"b\\\" c r#\"d \" e\"# f br##\"g\"# h\"## i"), ["a", "c", "f", "i"]);
        assert_eq!(texts("&'a str, 'b: loop"), ["&", "'", "a", "str", ",", "'", "b", ":", "loop"]);
        assert_eq!(texts("r#type::var\"x\""), ["type", "::", "var"]);
    }

    #[test]
    fn lines_keep_their_numbers() {
        let code = Code::new("common/src/x.rs", "/* a\nb */ c\n\"d\n\"; e");
        let lines: Vec<_> = code.tokens.iter().map(|token| (token.text.as_str(), token.line)).collect();
        assert_eq!(lines, [("c", 2), (";", 4), ("e", 4)]);
    }

    #[test]
    fn test_code_is_marked() {
        let source = "a; #[cfg(test)] use b; c; #[cfg(test)] #[path = \"x\"] mod t { fn d() { [1; 2]; } } e;";
        let code = Code::new("common/src/x.rs", source);
        let real: Vec<_> =
            code.tokens.iter().filter(|token| !token.is_test).map(|token| &token.text).collect();
        assert_eq!(real, ["a", ";", "c", ";", "e", ";"]);
        assert!(Code::new("common/src/x/tests.rs", "a").is_test(0));
        assert!(Code::new("tests/flows/main.rs", "a").is_test(0));
    }
}
