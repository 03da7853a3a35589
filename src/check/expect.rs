//! What an answer must have to be good: its status, and what is looked for in its text.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Serialize, Serializer};

/// The largest program that a regular expression may become, in bytes, and the memory of a search.
const LARGEST_REGEX: usize = 1024 * 1024;

/// The statuses of HTTP that are good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(Vec<RangeInclusive<u16>>);

impl Statuses {
    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Statuses {
        Statuses(ranges)
    }

    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl From<&[u16]> for Statuses {
    fn from(statuses: &[u16]) -> Statuses {
        Statuses(statuses.iter().map(|status| *status..=*status).collect())
    }
}

/// As in `200-299 or 404`.
impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, range) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(" or ")?;
            }
            let (first, last) = (range.start(), range.end());
            if first == last {
                write!(f, "{first}")?;
            } else {
                write!(f, "{first}-{last}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is looked for in a text that may be anything.
#[derive(Clone, Debug)]
pub struct Pattern {
    regex: regex::bytes::Regex,
    /// What was asked for, if that was a plain text.
    text: Option<String>,
}

impl Pattern {
    /// This very text.
    pub fn substring(text: &str) -> Result<Pattern, regex::Error> {
        let regex = Pattern::regex(&regex::escape(text))?.regex;
        let text = Some(text.to_owned());
        Ok(Pattern { regex, text })
    }

    /// In the syntax of the `regex` crate.
    pub fn regex(text: &str) -> Result<Pattern, regex::Error> {
        let regex = regex::bytes::RegexBuilder::new(text)
            .size_limit(LARGEST_REGEX)
            .dfa_size_limit(LARGEST_REGEX)
            .build()?;
        Ok(Pattern { regex, text: None })
    }

    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }
}

/// As an operator would name it: `"a text"`, `/an expression/`.
impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.text {
            Some(text) => write!(f, "{text:?}"),
            None => write!(f, "/{}/", self.regex.as_str()),
        }
    }
}

impl Eq for Pattern {}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        (self.regex.as_str(), &self.text) == (other.regex.as_str(), &other.text)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_in_ranges() {
        let statuses = Statuses::new(vec![200..=299, 404..=404]);
        assert_eq!(statuses.to_string(), "200-299 or 404");
        let good = [199, 200, 204, 299, 300, 404].map(|status| statuses.contains(status));
        assert_eq!(good, [false, true, true, true, false, true]);
    }

    #[test]
    fn patterns_in_any_bytes() {
        let dots = Pattern::substring("a.\"b").unwrap();
        assert_eq!(dots.to_string(), r#""a.\"b""#);
        assert!(dots.is_in(b"\xff\0a.\"b") && !dots.is_in(b"axyb"));
        let regex = Pattern::regex("^a.b$").unwrap();
        assert_eq!(regex.to_string(), "/^a.b$/");
        assert!(regex.is_in(b"axb") && !regex.is_in(b"axb\n"));
        assert!(Pattern::regex("(").is_err());
        assert!(Pattern::regex(r"(\w{100}){100}").is_err(), "too large");
    }
}
