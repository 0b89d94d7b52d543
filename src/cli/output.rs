//! What goes to standard output: a table for people, or one JSON object.

use crate::error::{Error, Result};
use serde::Serialize;
use std::io::{ErrorKind, Write};
use std::path::Path;

/// Where results go.
#[derive(Clone, Copy)]
pub struct Output {
    /// One JSON object instead of a table.
    pub json: bool,
}

impl Output {
    /// Prints `value` as JSON, or `table` made from it.
    pub fn print<T: Serialize>(self, value: &T, table: impl FnOnce(&T) -> String) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(value)? } else { table(value).trim_end().to_owned() };
        Ok(say(&format!("{text}\n"))?)
    }
}

/// Writes to standard output at once. A reader that has gone (`thimble … | head`)
/// has seen what it wanted, and is no error.
pub fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => Err(Error::io("write", Path::new("standard output"))(e)),
        _ => Ok(()),
    }
}

/// Rows of two or more columns, the first to the left and the rest to the right.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells =
            row.iter().zip(&widths).enumerate().map(|(c, (cell, w))| if c == 0 { format!("{cell:<w$}") } else { format!("{cell:>w$}") });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A number of bytes for people.
pub fn bytes(n: u64) -> String {
    match n {
        0..10_000 => format!("{n} B"),
        10_000..1_000_000 => format!("{:.1} kB", n as f64 / 1e3),
        1_000_000..10_000_000_000 => format!("{:.2} MB", n as f64 / 1e6),
        _ => format!("{:.1} GB", n as f64 / 1e9),
    }
}
