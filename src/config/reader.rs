//! Walks a TOML document key by key and notes each mistake at its place. Knows TOML's types, and no key.
//!
//! A reading function gives `None` once it has noted why, so that its caller can go on to the next key.

use std::borrow::Cow;
use std::fmt::{self, Display, Write as _};
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Place, Report};
use super::spelling::{self, quoted};

/// A key that a section may have.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    /// What PyBal calls it, if that is another word.
    pub(super) pybal: Option<&'static str>,
}

/// A key that PyBal has under the same name, or not at all.
pub(super) const fn key(name: &'static str) -> Key {
    Key { name, pybal: None }
}

/// A key that PyBal has under another name.
pub(super) const fn was(name: &'static str, pybal: &'static str) -> Key {
    Key {
        name,
        pybal: Some(pybal),
    }
}

/// A value and its place.
#[derive(Clone)]
pub(super) struct Node<'a> {
    place: Place<'a>,
    value: &'a DeValue<'a>,
}

impl<'a> Node<'a> {
    pub(super) fn place(&self) -> &Place<'a> {
        &self.place
    }

    /// Notes a mistake at this value.
    pub(super) fn mistake(&self, text: impl Display) {
        self.place.mistake(text);
    }

    /// Notes that the value has another type than `expected`.
    pub(super) fn wrong_type(&self, expected: &str, right: &str) {
        self.mistake(format_args!(
            "expected {expected}, found {}; write {right}",
            Found(self.value)
        ));
    }

    /// The text, if it is one; notes nothing.
    pub(super) fn as_str(&self) -> Option<&'a str> {
        self.value.as_str()
    }

    /// Whether it is true or false; notes nothing.
    pub(super) fn as_bool(&self) -> Option<bool> {
        self.value.as_bool()
    }

    /// `example`: a good value, as the operator would write it.
    pub(super) fn string(&self, expected: &str, example: &str) -> Option<&'a str> {
        let text = self.value.as_str();
        if text.is_none() {
            let number = self.value.is_integer() || self.value.is_float();
            let in_quotes = if number { "it in quotes, like " } else { "" };
            let right = format!("{in_quotes}{example:?}");
            self.wrong_type(expected, &right);
        }
        text
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        let value = self.value.as_bool();
        if value.is_none() {
            let right = match self.value.as_str() {
                Some("yes" | "on" | "true") => "true",
                Some("no" | "off" | "false") => "false",
                _ => "true or false",
            };
            self.wrong_type("true or false", right);
        }
        value
    }

    /// An integer of this range, both ends included.
    pub(super) fn integer(&self, least: u32, most: u32) -> Option<u32> {
        let right = format!("{least} to {most}");
        let DeValue::Integer(integer) = self.value else {
            let unquoted = self
                .value
                .as_str()
                .and_then(|text| text.parse::<u32>().ok());
            let right = match unquoted.filter(|n| (least..=most).contains(n)) {
                Some(number) => format!("{number} without quotes"),
                None => right,
            };
            self.wrong_type("an integer", &right);
            return None;
        };
        let number = u32::from_str_radix(integer.as_str(), integer.radix()).ok();
        let number = number.filter(|n| (least..=most).contains(n));
        if number.is_none() {
            self.mistake(format_args!(
                "{} is out of range; write {right}",
                Found(self.value)
            ));
        }
        number
    }

    /// A number with or without a decimal point; `None` for any other type.
    pub(super) fn number(&self) -> Option<f64> {
        match self.value {
            DeValue::Float(float) => float.as_str().parse().ok(),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .ok()
                .map(|n| n as f64),
            DeValue::String(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => None,
        }
    }

    /// One of some words.
    pub(super) fn choice<T>(
        &self,
        what: &str,
        choices: impl IntoIterator<Item = (&'static str, T)>,
    ) -> Option<T> {
        let mut words = Vec::new();
        let mut found = None;
        let text = self.value.as_str();
        for (word, value) in choices {
            words.push(word);
            if text == Some(word) {
                found = Some(value);
            }
        }
        if found.is_none() {
            let all = words.join(", ");
            match text {
                None => self.wrong_type(&format!("a {what}"), &format!("one of {all}, in quotes")),
                Some(text) => self.mistake(match spelling::nearest(text, words.iter().copied()) {
                    Some(near) => {
                        format!(
                            "unknown {what} {}; did you mean {near:?}? Allowed are {all}",
                            quoted(text)
                        )
                    }
                    None => format!("unknown {what} {}; allowed are {all}", quoted(text)),
                }),
            }
        }
        found
    }

    pub(super) fn is_empty_list(&self) -> bool {
        self.value.as_array().is_some_and(|array| array.is_empty())
    }

    /// The elements of a list; of anything else, itself as the only one.
    pub(super) fn items(&self) -> Vec<Node<'a>> {
        let DeValue::Array(array) = self.value else {
            return vec![self.clone()];
        };
        array
            .iter()
            .enumerate()
            .map(|(index, value)| self.item(index, value))
            .collect()
    }

    fn item(&self, index: usize, value: &'a Spanned<DeValue<'a>>) -> Node<'a> {
        // Only what the parser made up has an empty span; the list's place is as good.
        let Range { start, end } = value.span();
        let offset = if start == end {
            self.place.offset()
        } else {
            start
        };
        Node {
            place: self.place.element(index, offset),
            value: value.get_ref(),
        }
    }

    /// A table, whose unknown keys are noted.
    pub(super) fn table(&self, keys: &'static [Key]) -> Option<Table<'a>> {
        let table = self.any_table(&format!("[{}]", self.place.path()))?;
        table.note_unknown_keys(keys);
        Some(table)
    }

    /// A table whose keys are names of the operator's choice.
    pub(super) fn any_table(&self, right: &str) -> Option<Table<'a>> {
        let table = self.as_table();
        if table.is_none() {
            self.wrong_type("a table", right);
        }
        table
    }

    /// The table, if it is one; notes nothing.
    pub(super) fn as_table(&self) -> Option<Table<'a>> {
        let DeValue::Table(entries) = self.value else {
            return None;
        };
        Some(Table {
            place: self.place.clone(),
            entries,
        })
    }

    /// The tables of an array of them, `[[PATH]]`.
    pub(super) fn tables(&self) -> Vec<Table<'a>> {
        let right = format!("[[{}]]", self.place.path());
        if !self.value.is_array() {
            self.wrong_type("an array of tables", &right);
            return Vec::new();
        }
        self.items()
            .iter()
            .filter_map(|item| item.any_table(&right))
            .collect()
    }
}

/// A table and its place.
#[derive(Clone)]
pub(super) struct Table<'a> {
    pub(super) place: Place<'a>,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The whole document.
    pub(super) fn root(report: &'a Report<'a>, entries: &'a DeTable<'a>) -> Table<'a> {
        Table {
            place: Place::root(report),
            entries,
        }
    }

    /// The value of a key, if it is there.
    pub(super) fn get(&self, key: &str) -> Option<Node<'a>> {
        let (key, value) = self.entries.get_key_value(key)?;
        Some(self.node(key, value))
    }

    /// What `read` makes of a key's value; `default` if the key is not there.
    pub(super) fn or<T>(
        &self,
        key: &str,
        default: T,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        self.get(key).map_or(Some(default), |node| read(&node))
    }

    /// What `read` makes of a key's value; `Some(None)` if the key is not there.
    pub(super) fn optional<T>(
        &self,
        key: &str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<Option<T>> {
        self.or(key, None, |node| read(node).map(Some))
    }

    /// Puts what `read` makes of a key's value in the place of what was there before, if the key is there.
    /// `false`: the value is wrong, and this has been noted.
    pub(super) fn put<T>(
        &self,
        key: &str,
        to: &mut T,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> bool {
        match self.get(key).map(|node| read(&node)) {
            None => true,
            Some(None) => false,
            Some(Some(value)) => {
                *to = value;
                true
            }
        }
    }

    /// The same where a key need not have been anywhere.
    pub(super) fn put_some<T>(
        &self,
        key: &str,
        to: &mut Option<T>,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> bool {
        self.put(key, to, |node| read(node).map(Some))
    }

    /// Where a key stands; the table's own line if it is not there.
    pub(super) fn place_of(&self, key: &str) -> Place<'a> {
        match self.get(key) {
            Some(node) => node.place,
            None => self.place.child(key, self.place.offset()),
        }
    }

    /// What `read` makes of a key's value; notes it if the key is not there. `example`: a good line.
    pub(super) fn required<T>(
        &self,
        key: &str,
        example: &str,
        read: impl FnOnce(&Node<'a>) -> Option<T>,
    ) -> Option<T> {
        let Some(node) = self.get(key) else {
            self.place
                .missing(key, format_args!("missing; write {example}"));
            return None;
        };
        read(&node)
    }

    /// All keys with their values, in the file's order.
    pub(super) fn entries(&self) -> Vec<(&'a str, Node<'a>)> {
        let mut entries: Vec<_> = self
            .entries
            .iter()
            .map(|(key, value)| (key.get_ref().as_ref(), self.node(key, value)))
            .collect();
        entries.sort_by_key(|(_, node)| node.place.offset());
        entries
    }

    /// Notes each key that is not among `keys`.
    pub(super) fn note_unknown_keys(&self, keys: &'static [Key]) {
        self.note_keys_not_in(&[keys]);
    }

    pub(super) fn note_keys_not_in(&self, lists: &[&'static [Key]]) {
        let keys = || lists.iter().copied().flatten();
        for (name, node) in self.entries() {
            if keys().any(|key| key.name == name) {
                continue;
            }
            let found = quoted(name);
            let pybals = keys()
                .find(|key| key.pybal == Some(name))
                .map(|key| key.name);
            let near = pybals.or_else(|| spelling::nearest(name, keys().map(|key| key.name)));
            node.mistake(match near {
                Some(near) => format!("unknown key {found}; did you mean {near:?}?"),
                None => {
                    let all: Vec<_> = keys().map(|key| key.name).collect();
                    format!("unknown key {found}; allowed are {}", all.join(", "))
                }
            });
        }
    }

    fn node(&self, key: &Spanned<Cow<'a, str>>, value: &'a Spanned<DeValue<'a>>) -> Node<'a> {
        // A table's span is its header, and its key may have been seen first in another header.
        let table = value.get_ref().is_table();
        let offset = if table {
            value.span().start
        } else {
            key.span().start
        };
        Node {
            place: self.place.child(key.get_ref(), offset),
            value: value.get_ref(),
        }
    }
}

/// A value as a mistake names it.
struct Found<'a>(&'a DeValue<'a>);

impl Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DeValue::String(text) => write!(f, "the string {}", quoted(text)),
            DeValue::Integer(integer) => {
                f.write_str("the integer ")?;
                shortened(f, &integer.to_string())
            }
            DeValue::Float(float) => {
                f.write_str("the number ")?;
                shortened(f, float.as_str())
            }
            DeValue::Boolean(value) => write!(f, "{value}"),
            DeValue::Datetime(_) => f.write_str("a date or time"),
            DeValue::Array(_) => f.write_str("a list"),
            DeValue::Table(_) => f.write_str("a table"),
        }
    }
}

fn shortened(f: &mut fmt::Formatter<'_>, digits: &str) -> fmt::Result {
    match digits.char_indices().nth(spelling::QUOTED) {
        None => f.write_str(digits),
        Some((end, _)) => {
            f.write_str(&digits[..end])?;
            f.write_char('…')
        }
    }
}
