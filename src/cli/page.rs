//! The part of a list that a command asks for, and where the next part begins.

use clap::Args;

use super::client::query;
use super::output::{Format, note, printable};

#[derive(Debug, Args)]
pub struct PageArgs {
    /// Continue behind this entry, the last one of the page before
    #[arg(long, value_name = "LAST")]
    after: Option<String>,
    /// At most this many, up to 1000
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

impl PageArgs {
    /// A path that asks for this part of a list, of which only what is `narrowed` so counts.
    pub fn of(self, path: &str, narrowed: &[(&str, Option<String>)]) -> String {
        let part = [("after", self.after), ("limit", Some(self.limit.to_string()))];
        format!("{path}{}", query(&[narrowed, &part].concat()))
    }
}

/// Says how to go on, if the list does.
pub fn tell_of_more(next: Option<&str>) {
    if let Some(next) = next {
        note(&format!("There are more: --after {}", printable(next)));
    }
}
