//! Standard output: JSON, a line an object, or tables for people.

use std::io::{self, BufWriter, Write};

use console::{Term, style};
use serde::Serialize;

use super::finding::{Finding, Status};
use super::moment::Times;
use super::table::{Row, Table};
use crate::task::Time;
use crate::terminal::{escape, escape_json};

/// Where the answers go. What is printed is on its way when the method returns.
pub(super) struct Out {
    pub(super) json: bool,
    /// The terminal's width, if it is one: what is piped is never cut.
    width: Option<usize>,
    pub(super) times: Times,
    to: BufWriter<Box<dyn Write>>,
}

impl Out {
    pub(super) fn stdout(json: bool) -> Out {
        let term = Term::stdout();
        let width = if term.is_term() { term.size_checked().map(|(_, columns)| columns.into()) } else { None };
        let times = if term.is_term() { Times::Ago(Time::now()) } else { Times::Exact };
        Out { json, width, times, to: BufWriter::new(Box::new(io::stdout())) }
    }

    /// Prints an object, or, for people, what it means to them.
    pub(super) fn object(&mut self, object: &impl Serialize, text: &str) -> io::Result<()> {
        if self.json {
            self.json_line(object)?
        } else {
            self.text(text)?
        }
        self.to.flush()
    }

    /// Prints a line for people.
    pub(super) fn text(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.to, "{}", escape(text))
    }

    /// Prints rows, under the heading if they are the first ones of their table.
    pub(super) fn rows<R: Row>(&mut self, table: &mut Table, rows: &[R]) -> io::Result<()> {
        if self.json {
            for row in rows {
                self.json_line(row)?;
            }
        } else {
            self.to.write_all(table.page(rows, self.width, self.times).as_bytes())?;
        }
        self.to.flush()
    }

    /// Prints a table under a title of its own, if there is something in it.
    pub(super) fn section<R: Row>(&mut self, title: &str, rows: &[R]) -> io::Result<()> {
        if !rows.is_empty() {
            writeln!(self.to, "\n{title}")?;
            self.rows(&mut Table::default(), rows)?;
        }
        Ok(())
    }

    /// Prints what a check came to.
    pub(super) fn finding(&mut self, finding: &Finding) -> io::Result<()> {
        let word = match finding.status {
            Status::Ok => style("ok     ").green(),
            Status::Warning => style("warning").yellow(),
            Status::Failed => style("failed ").red(),
        };
        let remedy = finding.remedy.as_ref().map_or(String::new(), |remedy| format!("; {remedy}"));
        if self.json {
            self.json_line(finding)?;
        } else {
            let text = format!("{}{remedy}", finding.says);
            writeln!(self.to, "{word}  {:<12}  {}", finding.check, escape(&text))?;
        }
        self.to.flush()
    }

    /// Prints names and their values, one under the other.
    pub(super) fn properties(&mut self, all: &[(&str, String)]) -> io::Result<()> {
        for (name, value) in all {
            writeln!(self.to, "{name:<13} {}", escape(value))?;
        }
        self.to.flush()
    }

    /// Tells of one of many that failed while the rest goes on: programs among the others, people on standard error.
    pub(super) fn failed(&mut self, object: &impl Serialize, text: &str) -> io::Result<()> {
        if self.json {
            return self.object(object, "");
        }
        let _ = writeln!(io::stderr(), "{}", escape(text));
        Ok(())
    }

    /// Says something that is no data: to people, on standard error.
    pub(super) fn remark(&self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr(), "{}", escape(text));
        }
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    fn json_line(&mut self, object: &impl Serialize) -> io::Result<()> {
        writeln!(self.to, "{}", escape_json(&serde_json::to_string(object)?))
    }
}
