//! What was measured: a table for people, one object for programs.

use std::io;

use indicatif::HumanCount;
use serde::ser::{Serialize, Serializer};
use serde_json::{Value, json};

use crate::ctl::out::Out;

/// The figures of one measurement, in the order in which they are shown.
pub(super) struct Report {
    figures: Vec<Figure>,
}

struct Figure {
    /// The name for programs.
    key: &'static str,
    value: Value,
    /// What it is, for people.
    says: &'static str,
}

impl Report {
    pub(super) fn new(bench: &'static str) -> Report {
        Report { figures: vec![Figure { key: "bench", value: bench.into(), says: "" }] }
    }

    /// A rate or a ratio, or a time; three digits are enough, and more would be noise.
    pub(super) fn number(&mut self, key: &'static str, value: f64, says: &'static str) {
        let digits = if value >= 1000.0 { 0 } else { 3 };
        let rounded = format!("{value:.digits$}").parse().unwrap_or(value);
        let value = if digits == 0 { json!(rounded as u64) } else { json!(rounded) };
        self.figures.push(Figure { key, value, says });
    }

    pub(super) fn count(&mut self, key: &'static str, value: u64, says: &'static str) {
        self.figures.push(Figure { key, value: value.into(), says });
    }

    pub(super) fn text(&mut self, key: &'static str, value: &str, says: &'static str) {
        self.figures.push(Figure { key, value: value.into(), says });
    }

    pub(super) fn print(&self, out: &mut Out) -> io::Result<()> {
        let shown = |figure: &Figure| match &figure.value {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_u64() => HumanCount(number.as_u64().unwrap_or(0)).to_string(),
            other => other.to_string(),
        };
        let width = self.figures.iter().map(|figure| shown(figure).len()).max().unwrap_or(0);
        let lines = self.figures.iter().map(|figure| format!("{:>width$}  {}", shown(figure), figure.says));
        let table = lines.skip(1).collect::<Vec<_>>();
        if !out.json {
            for line in table {
                out.text(&line)?;
            }
            return out.flush();
        }
        out.object(self, "")
    }
}

impl Serialize for Report {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.figures.iter().map(|figure| (figure.key, &figure.value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(HumanCount(number).to_string(), text);
        }
    }

    #[test]
    fn an_object_has_the_figures_in_their_order() {
        let mut report = Report::new("work");
        report.number("tasks_per_s", 1234.56, "a second");
        report.number("ratio", 0.98765, "of it");
        report.count("tasks", 3, "tasks");
        let object = serde_json::to_string(&report).unwrap_or_default();
        assert_eq!(object, r#"{"bench":"work","tasks_per_s":1235,"ratio":0.988,"tasks":3}"#);
    }
}
