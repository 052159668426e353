//! What the command line prints: tables for people, JSON for programs. Never panics on a closed pipe, and never lets what
//! came from elsewhere steer a terminal.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Exit, Failure};

/// How an answer is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Reads an answer that this version of Tollgate should understand.
pub fn read<T: DeserializeOwned>(answer: Value) -> Result<T, Failure> {
    serde_json::from_value(answer).map_err(|error| {
        let hint = "is the server of another version? -o json shows it as it is";
        Failure::new(Exit::Failed, format!("the answer cannot be read: {error}; {hint}"))
    })
}

/// Writes to standard output. A reader that went away is no failure: it has read what it wanted.
///
/// # Errors
/// If the output cannot be written for another reason, such as a full disk.
pub fn print(text: &str) -> Result<(), Failure> {
    match write_out(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::new(Exit::Failed, format!("cannot write to standard output: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Writes what must not be lost: here a reader that went away is a failure.
///
/// # Errors
/// If not all of it could be written.
pub fn write_out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line for people to standard error.
pub fn note(text: &str) {
    // Nowhere is left to say that this failed.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// How far something is that takes a while, for people: on a terminal often, in one line, and elsewhere now and then.
#[derive(Debug)]
pub struct Progress {
    told: Instant,
    is_terminal: bool,
    has_told: bool,
}

impl Progress {
    pub fn new() -> Self {
        Self { told: Instant::now(), is_terminal: io::stderr().is_terminal(), has_told: false }
    }

    /// Says it, if it is time to.
    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        let pause = if self.is_terminal { ON_TERMINAL } else { ELSEWHERE };
        if self.told.elapsed() < pause {
            return;
        }
        (self.told, self.has_told) = (Instant::now(), true);
        let (before, after) = if self.is_terminal { ("\r", "\x1b[K") } else { ("", "\n") };
        let _ = write!(io::stderr().lock(), "{before}{}{after}", text());
    }
}

/// Leaves a terminal to what is said next.
impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_terminal && self.has_told {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

const ON_TERMINAL: Duration = Duration::from_millis(200);
const ELSEWHERE: Duration = Duration::from_secs(10);

/// Pretty JSON with a newline at its end.
///
/// # Errors
/// If the value cannot be JSON; ours can.
pub fn json<T: Serialize>(value: &T) -> Result<String, Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    Ok(text + "\n")
}

/// Whether to use colour: on a terminal, unless `NO_COLOR` is set.
pub fn is_colourful() -> bool {
    io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The colour of a word, as an ANSI code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Red = 31,
    Green = 32,
    Yellow = 33,
}

pub fn painted(text: &str, colour: Colour, colourful: bool) -> String {
    if colourful { format!("\u{1b}[{}m{text}\u{1b}[0m", colour as u8) } else { text.to_owned() }
}

/// One line of text that a terminal shows as it is.
pub fn printable(text: &str) -> String {
    // Also the marks that reorder text.
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if steers(c) { '\u{fffd}' } else { c }).collect()
}

/// Rows under headings, in columns as wide as needed.
#[derive(Debug)]
pub struct Table {
    headings: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Debug)]
pub struct Cell {
    text: String,
    colour: Option<Colour>,
}

impl Cell {
    pub fn coloured(text: &str, colour: Option<Colour>) -> Self {
        Self { text: printable(text), colour }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::coloured(text, None)
    }
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Self {
        Self { headings: headings.to_vec(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        self.rows.push(cells);
    }

    pub fn render(&self, colourful: bool) -> String {
        let width = |at: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.text.chars().count());
            cells.chain(self.headings.get(at).map(|heading| heading.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.headings.len()).map(width).collect();
        let mut text = String::new();
        let headings: Vec<Cell> = self.headings.iter().map(|heading| Cell::from(*heading)).collect();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let last = row.len().saturating_sub(1);
            for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = if at == last { 0 } else { width - cell.text.chars().count() + 2 };
                match cell.colour {
                    Some(colour) => text.push_str(&painted(&cell.text, colour, colourful)),
                    None => text.push_str(&cell.text),
                }
                text.extend(std::iter::repeat_n(' ', pad));
            }
            text.push('\n');
        }
        text
    }
}

/// Names and values, one a line, the values in one column.
pub fn fields(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0) + 2;
    let line = |(name, value): &(&str, String)| format!("{name:width$}{}\n", printable(value));
    pairs.iter().map(line).collect()
}

/// A time without fractions of a second, or a dash.
pub fn time(text: Option<&str>) -> String {
    match text.and_then(|text| text.parse::<jiff::Timestamp>().ok()) {
        Some(time) => jiff::Timestamp::from_second(time.as_second()).unwrap_or(time).to_string(),
        None => text.unwrap_or("-").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_straight_columns_and_no_trailing_blanks() {
        let mut table = Table::new(&["ID", "STATE", "NAME"]);
        table.row(vec!["a".into(), Cell::coloured("active", Some(Colour::Green)), "one".into()]);
        table.row(vec!["bcd".into(), "x".into(), "é\u{1b}[2J".into()]);
        assert_eq!(table.render(false), "ID   STATE   NAME\na    active  one\nbcd  x       é\u{fffd}[2J\n");
        assert!(table.render(true).contains("\u{1b}[32mactive\u{1b}[0m  one"));
    }

    #[test]
    fn fields_are_aligned() {
        assert_eq!(
            fields(&[("Id", "x".to_owned()), ("Project", "a\nb".to_owned())]),
            "Id       x\nProject  a\u{fffd}b\n"
        );
    }

    #[test]
    fn times_are_short() {
        assert_eq!(time(Some("2026-11-18T11:06:40.25Z")), "2026-11-18T11:06:40Z");
        assert_eq!(time(None), "-");
    }
}
