//! Where a page ended, and the text that callers hand back for the next one.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Version of the text. Another one is no cursor, so its caller begins again.
const VERSION: &str = "1";
/// Ends each field; no key of an item holds it.
const FIELD_END: char = '\u{1f}';
/// Longest text that is read.
const TEXT_BYTES_MAX: usize = 8_192;
/// Longest sort key and longest partition key of DynamoDB.
const SORT_BYTES_MAX: usize = 1_024;
const KEY_BYTES_MAX: usize = 2_048;

/// The position of the last item of a page. The partition is not part of it: the query names that one, so no cursor leads
/// into another partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageCursor {
    /// The sort key of the listing; empty if it is in the order of the keys.
    pub sort: String,
    /// What identifies the item.
    pub key: String,
}

// === impl PageCursor ===

impl PageCursor {
    /// Whether both parts are as long as a store can have them.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.sort.len() <= SORT_BYTES_MAX && (1..=KEY_BYTES_MAX).contains(&self.key.len())
    }

    /// The cursor as a text of letters, digits, `-` and `_`.
    #[must_use]
    pub fn to_text(&self) -> String {
        encode(&[&self.sort, &self.key])
    }

    /// The cursor of such a text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let [sort, key] = decode(text)?;
        Some(Self { sort, key }).filter(Self::is_bounded)
    }
}

/// These fields as one opaque text.
#[must_use]
pub fn encode(fields: &[&str]) -> String {
    let text: String = [VERSION].iter().chain(fields).flat_map(|field| [*field, "\u{1f}"]).collect();
    URL_SAFE_NO_PAD.encode(text)
}

/// The fields of such a text, if it has as many; their content is the caller's to check.
#[must_use]
pub fn decode<const N: usize>(text: &str) -> Option<[String; N]> {
    if text.len() > TEXT_BYTES_MAX {
        return None;
    }
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let mut fields = text.strip_suffix(FIELD_END)?.split(FIELD_END);
    if fields.next() != Some(VERSION) {
        return None;
    }
    let fields: Vec<_> = fields.map(str::to_owned).collect();
    fields.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursor_round_trips() {
        for (sort, key) in [("lab-\u{fc} 1", "7"), ("", "OWNER#x")] {
            let cursor = PageCursor { sort: sort.to_owned(), key: key.to_owned() };
            let text = cursor.to_text();
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            assert!(text.bytes().all(is_plain), "{text}");
            assert_eq!(PageCursor::parse(&text), Some(cursor));
        }
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        let of_other_version = URL_SAFE_NO_PAD.encode("2\u{1f}a\u{1f}b\u{1f}");
        let without_end = URL_SAFE_NO_PAD.encode("1\u{1f}a\u{1f}b");
        let not_text = URL_SAFE_NO_PAD.encode(b"1\x1f\xff\x1fb\x1f");
        let long_sort = encode(&[&"a".repeat(SORT_BYTES_MAX + 1), "b"]);
        let long_key = encode(&["a", &"b".repeat(KEY_BYTES_MAX + 1)]);
        let too_long = encode(&["", &"b".repeat(TEXT_BYTES_MAX)]);
        let padded = format!("{}=", encode(&["a", "b"]));
        for bad in [
            "",
            "7",
            "zz",
            "+1",
            "\u{fc}",
            "504b1f73616e64626f78231f",
            &of_other_version,
            &without_end,
            &not_text,
            &long_sort,
            &long_key,
            &too_long,
            &padded,
            &encode(&["a"]),
            &encode(&["a", "b", "c"]),
            &encode(&["a", ""]),
        ] {
            assert_eq!(PageCursor::parse(bad), None, "{bad:?}");
        }
    }
}
