//! Tables for people: plain text, columns as wide as what stands in them. What the rows say is their owners'
//! business.

use std::fmt::Write as _;

pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub fn new(head: [&str; N]) -> Table<N> {
        Table {
            rows: vec![head.map(str::to_owned)],
        }
    }

    pub fn row(&mut self, cells: [&str; N]) {
        self.rows.push(cells.map(clean));
    }

    /// A line a row, the head first.
    pub fn text(&self) -> String {
        let length = |cell: &str| cell.chars().count();
        let width: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| length(&row[column]));
            cells.max().unwrap_or(0)
        });
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(width) {
                // Writing to a string cannot fail.
                let _ = write!(line, "{cell:width$}  ");
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

/// Wherever it came from, a cell is a cell and moves no cursor.
pub fn clean(text: &str) -> String {
    let printable = |c: char| if c.is_control() { '?' } else { c };
    text.chars().map(printable).collect()
}
