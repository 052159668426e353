//! From samples to rows: medians, ratios by round, `target/bench.json` and the printed table. Never drops a sample.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use crate::Outcome;

/// What a larger figure means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

/// What a row is held against.
#[derive(Clone, Copy)]
pub enum Reference {
    /// Another row of the same table, measured in the same rounds.
    Row(&'static str),
    /// A fixed figure: a bar.
    Bar(f64),
}

/// One line of the result.
pub struct Row {
    pub table: &'static str,
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    pub reference: Reference,
    /// The ratio that the foundation asks for.
    pub bar: Option<f64>,
    /// Judge the bar by the upper end of the ratio's 95 % interval.
    pub by_interval: bool,
}

impl Row {
    pub const fn new(table: &'static str, name: &'static str, unit: &'static str, reference: &'static str) -> Self {
        let reference = Reference::Row(reference);
        Self { table, name, unit, better: Better::Less, reference, bar: None, by_interval: false }
    }

    pub const fn more_is_better(mut self) -> Self {
        self.better = Better::More;
        self
    }

    pub const fn bar(mut self, bar: f64) -> Self {
        self.bar = Some(bar);
        self
    }
}

/// Every sample of a run, by table and row.
#[derive(Default)]
pub struct Samples(BTreeMap<(&'static str, &'static str), Vec<f64>>);

impl Samples {
    /// Keeps one figure; those of one round have the same index in each row of a table.
    pub fn add(&mut self, table: &'static str, name: &'static str, figure: f64) {
        self.0.entry((table, name)).or_default().push(figure);
    }

    fn of(&self, table: &'static str, name: &'static str) -> &[f64] {
        self.0.get(&(table, name)).map_or(&[], Vec::as_slice)
    }

    /// Above 1 is better than the reference. One for each round.
    fn ratios(&self, row: &Row) -> Vec<f64> {
        let ours = self.of(row.table, row.name);
        let ratio = |ours: f64, theirs: f64| match row.better {
            Better::Less => theirs / ours,
            Better::More => ours / theirs,
        };
        match row.reference {
            Reference::Row(name) => ours.iter().zip(self.of(row.table, name)).map(|(a, b)| ratio(*a, *b)).collect(),
            Reference::Bar(bar) => ours.iter().map(|figure| ratio(*figure, bar)).collect(),
        }
    }
}

/// Writes the rows that were measured to `file` and prints them.
pub fn report(rows: &[Row], samples: &Samples, file: &Path) -> Outcome<()> {
    let mut list = Vec::new();
    let mut table = "";
    for row in rows {
        let figures = sorted(samples.of(row.table, row.name));
        let (Some(min), Some(max)) = (figures.first(), figures.last()) else { continue };
        let ratios = sorted(&samples.ratios(row));
        let (ratio, (low, high)) = (median(&ratios), interval(&ratios));
        let reference = match row.reference {
            Reference::Row(name) => name.to_owned(),
            Reference::Bar(bar) => format!("bar {bar}"),
        };
        if table != row.table {
            table = row.table;
            println!(
                "\n{:<15} {:<18} {:>10} {:>10} {:>10} {:<9} {:>6}  {:<13} against",
                "table", "row", "median", "min", "max", "unit", "ratio", "95 %"
            );
        }
        let middle = median(&figures);
        println!(
            "{table:<15} {:<18} {middle:>10.2} {min:>10.2} {max:>10.2} {:<9} {ratio:>6.2}  {:<13} {reference}{}",
            row.name,
            row.unit,
            format!("{low:.2}-{high:.2}"),
            verdict(row, ratio, high),
        );
        let mut value = json!({
            "table": table, "name": row.name, "median": round(middle), "min": round(*min), "max": round(*max),
            "unit": row.unit, "ratio": round(ratio), "reference": reference,
        });
        if row.by_interval {
            value["ratio_low"] = json!(round(low));
            value["ratio_high"] = json!(round(high));
        }
        list.push(value);
    }
    let text = serde_json::to_string_pretty(&json!({"rows": Value::Array(list)}))?;
    std::fs::write(file, text + "\n")?;
    println!("\nA ratio above 1 is better than the reference; it is the median of the ratios of the rounds.");
    println!("Written to {}", file.display());
    Ok(())
}

fn verdict(row: &Row, ratio: f64, high: f64) -> String {
    let Some(bar) = row.bar else { return String::new() };
    let held = if row.by_interval { high } else { ratio } >= bar;
    format!("   bar {bar}: {}", if held { "holds" } else { "MISSED" })
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
}

fn median(sorted: &[f64]) -> f64 {
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// The 95 % interval of the median by order statistics, which asks nothing of how the figures are spread. All of them where
/// there are too few.
fn interval(sorted: &[f64]) -> (f64, f64) {
    let count = sorted.len();
    let mut rank = 0;
    // The largest rank r with P(fewer than r of n fair coins are heads) at most 2.5 %.
    let (mut below, mut term) = (0.0, 0.5_f64.powi(i32::try_from(count).unwrap_or(i32::MAX)));
    while rank < count / 2 && below + term <= 0.025 {
        below += term;
        term *= (count - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    let first = rank.saturating_sub(1);
    match (sorted.get(first), sorted.get(count.saturating_sub(first + 1))) {
        (Some(low), Some(high)) => (*low, *high),
        _ => (f64::NAN, f64::NAN),
    }
}

/// To five significant digits, as no figure here has more.
fn round(figure: f64) -> f64 {
    format!("{figure:.4e}").parse().unwrap_or(figure)
}
