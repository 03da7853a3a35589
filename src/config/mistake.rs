//! What is wrong with a configuration file: all of it, each mistake with its line and key.
//! Not here: what counts as a mistake; that stands beside the key it is about.

use std::fmt;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// From 1; `None` if the file could not be read at all.
    pub line: Option<usize>,
    /// From 1, in characters; only where the text is not TOML.
    pub column: Option<usize>,
    /// The dotted path of the key, as in `service.text.monitor[0].interval`; empty if it is about no key.
    pub key: String,
    /// What is wrong; then what would be right.
    pub text: String,
}

/// All mistakes of one file, by line. Its text has a line for each: `FILE:LINE: KEY: TEXT`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes {
    file: String,
    listed: Vec<Mistake>,
    count: usize,
}

impl Mistakes {
    /// Mistakes beyond this many are counted, not listed, so that a file that is no configuration
    /// at all does not fill memory and log.
    pub const LISTED: usize = 1000;

    /// `count`: how many there were before some were left out.
    pub(super) fn new(file: &str, mut listed: Vec<Mistake>, count: usize) -> Mistakes {
        // A stable sort: mistakes of one line stay in the order in which they were found.
        listed.sort_by_key(|mistake| (mistake.line, mistake.column));
        Mistakes {
            file: file.to_owned(),
            listed,
            count,
        }
    }

    /// One mistake about the file as a whole or one line of it.
    pub(super) fn of_file(file: &str, line: Option<usize>, text: String) -> Mistakes {
        let mistake = Mistake {
            line,
            column: None,
            key: String::new(),
            text,
        };
        Mistakes {
            file: file.to_owned(),
            listed: vec![mistake],
            count: 1,
        }
    }

    /// How many there are, those not listed too.
    pub fn count(&self) -> usize {
        self.count
    }

    /// By line, [`Mistakes::LISTED`] at most.
    pub fn iter(&self) -> impl Iterator<Item = &Mistake> {
        self.listed.iter()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.listed.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}:{mistake}", self.file)?;
        }
        match self.count - self.listed.len() {
            0 => Ok(()),
            more => write!(f, "\n{}: and {more} more mistakes", self.file),
        }
    }
}

/// Without the file: `LINE: KEY: TEXT`.
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(column) = self.column {
            write!(f, "{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.text)
    }
}
