//! Collects the mistakes of one text, each at its line and key. Not here: what a mistake is.

use std::cell::RefCell;
use std::fmt::Display;

use super::mistake::{Mistake, Mistakes};
use super::spelling::{QUOTED, quoted};

/// Everything noted so far about one text.
pub(super) struct Report<'a> {
    lines: Lines<'a>,
    noted: RefCell<Noted>,
}

#[derive(Default)]
struct Noted {
    mistakes: Vec<Mistake>,
    /// Those that did not fit.
    more: usize,
    not_toml: bool,
    /// The lines that are not TOML, sorted.
    broken: Vec<usize>,
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Report<'a> {
        Report {
            lines: Lines::new(text),
            noted: RefCell::default(),
        }
    }

    /// Notes what the TOML parser says; to be called before anything else is noted.
    pub(super) fn not_toml(&self, mut errors: Vec<toml::de::Error>) {
        // Each of a hundred brackets that are never closed is told at the end of the file.
        errors.dedup_by(|a, b| a.span() == b.span() && a.message() == b.message());
        let mut noted = self.noted.borrow_mut();
        noted.not_toml = !errors.is_empty();
        let lines = errors
            .iter()
            .filter_map(|error| Some(self.lines.line(error.span()?.start)));
        noted.broken.extend(lines);
        noted.broken.sort_unstable();
        noted.more = errors.len().saturating_sub(Mistakes::LISTED);
        errors.truncate(Mistakes::LISTED);
        noted.mistakes = errors.iter().map(|error| self.syntax(error)).collect();
    }

    fn syntax(&self, error: &toml::de::Error) -> Mistake {
        // One that has no span is about nesting.
        let place = error
            .span()
            .map(|span| self.lines.line_and_column(span.start));
        let found = error
            .span()
            .and_then(|span| self.lines.text.get(span))
            .unwrap_or_default();
        let at = match found.trim() {
            "" => String::new(),
            _ => format!(" at {}", quoted(found)),
        };
        Mistake {
            line: place.map(|(line, _)| line),
            column: place.map(|(_, column)| column),
            key: String::new(),
            text: format!("not TOML{at}: {}", error.message()),
        }
    }

    fn note(&self, path: &str, offset: usize, text: String) {
        let line = self.lines.line(offset);
        let mut noted = self.noted.borrow_mut();
        // What the parser made up in place of a broken line is not the operator's mistake.
        if noted.broken.binary_search(&line).is_err() {
            noted.push(Mistake {
                line: Some(line),
                column: None,
                key: path.to_owned(),
                text,
            });
        }
    }

    fn any_not_toml(&self) -> bool {
        self.noted.borrow().not_toml
    }

    /// `Ok` if nothing was noted.
    pub(super) fn into_result(self, file: &str) -> Result<(), Mistakes> {
        let Noted { mistakes, more, .. } = self.noted.into_inner();
        if mistakes.is_empty() {
            return Ok(());
        }
        let count = mistakes.len() + more;
        Err(Mistakes::new(file, mistakes, count))
    }
}

impl Noted {
    fn push(&mut self, mistake: Mistake) {
        if self.mistakes.len() < Mistakes::LISTED {
            self.mistakes.push(mistake);
        } else {
            self.more += 1;
        }
    }
}

/// Where the lines of a text begin.
struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Lines<'a> {
        let after = text
            .bytes()
            .enumerate()
            .filter(|(_, byte)| *byte == b'\n')
            .map(|(at, _)| at + 1);
        Lines {
            text,
            starts: std::iter::once(0).chain(after).collect(),
        }
    }

    /// From 1.
    fn line(&self, offset: usize) -> usize {
        self.starts.partition_point(|start| *start <= offset)
    }

    /// Both from 1, the column in characters.
    fn line_and_column(&self, offset: usize) -> (usize, usize) {
        let line = self.line(offset);
        let before = self
            .text
            .get(self.starts[line - 1]..offset)
            .unwrap_or_default();
        (line, before.chars().count() + 1)
    }
}

/// A key's place in the file.
#[derive(Clone)]
pub(super) struct Place<'a> {
    report: &'a Report<'a>,
    path: String,
    offset: usize,
}

impl<'a> Place<'a> {
    /// The whole file.
    pub(super) fn root(report: &'a Report<'a>) -> Place<'a> {
        Place {
            report,
            path: String::new(),
            offset: 0,
        }
    }

    /// A key of the table that is here; `offset`: where it stands.
    pub(super) fn child(&self, key: &str, offset: usize) -> Place<'a> {
        Place {
            report: self.report,
            path: join(&self.path, key),
            offset,
        }
    }

    /// An element of the list that is here, counted from 0.
    pub(super) fn element(&self, index: usize, offset: usize) -> Place<'a> {
        Place {
            report: self.report,
            path: format!("{}[{index}]", self.path),
            offset,
        }
    }

    /// The dotted path.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn mistake(&self, text: impl Display) {
        self.report.note(&self.path, self.offset, text.to_string());
    }

    /// Notes that `key` is not there. Says nothing in a file that is not TOML throughout: there the
    /// key may well be in what could not be read.
    pub(super) fn missing(&self, key: &str, text: impl Display) {
        if self.is_toml() {
            self.report
                .note(&join(&self.path, key), self.offset, text.to_string());
        }
    }

    /// Whether the whole file is TOML. If not, what is not there may be in what could not be read.
    pub(super) fn is_toml(&self) -> bool {
        !self.report.any_not_toml()
    }

    pub(super) fn offset(&self) -> usize {
        self.offset
    }

    /// From 1.
    pub(super) fn line(&self) -> usize {
        self.report.lines.line(self.offset)
    }
}

/// `path.key`, the key in quotes where TOML asks for them.
fn join(path: &str, key: &str) -> String {
    let bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let dot = if path.is_empty() { "" } else { "." };
    if !key.is_empty() && key.len() <= QUOTED && key.chars().all(bare) {
        format!("{path}{dot}{key}")
    } else {
        format!("{path}{dot}{}", quoted(key))
    }
}
