//! Standard output: JSON, a line an object, or tables for people.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};

use console::{Alignment, Term, measure_text_width, pad_str, truncate_str};
use serde::Serialize;

/// The narrowest that the last column is cut to.
const NARROWEST: usize = 16;

/// What can be printed as an object or as a line of a table.
pub(super) trait Row: Serialize {
    /// The names of the columns. The last one is free text.
    const COLUMNS: &'static [&'static str];
    /// The text under each of them.
    fn cells(&self) -> Vec<String>;
}

/// Where the answers go. What is printed is on its way when the method returns.
pub(super) struct Out {
    pub(super) json: bool,
    /// The terminal's width, if it is one: what is piped is never cut.
    width: Option<usize>,
    to: BufWriter<Box<dyn Write>>,
}

impl Out {
    pub(super) fn stdout(json: bool) -> Out {
        let term = Term::stdout();
        let width = if term.is_term() { term.size_checked().map(|(_, columns)| columns.into()) } else { None };
        Out { json, width, to: BufWriter::new(Box::new(io::stdout())) }
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
            self.to.write_all(table.page(rows, self.width).as_bytes())?;
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

    /// Names on standard error what failed while the rest goes on.
    pub(super) fn complaint(&self, text: &str) {
        let _ = writeln!(io::stderr(), "{}", escape(text));
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
        serde_json::to_writer(&mut self.to, object)?;
        self.to.write_all(b"\n")
    }
}

/// A table that grows page by page. Its columns may grow from page to page, and never shrink.
#[derive(Default)]
pub(super) struct Table {
    widths: Vec<usize>,
}

impl Table {
    fn page<R: Row>(&mut self, rows: &[R], terminal: Option<usize>) -> String {
        let mut lines: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
        if self.widths.is_empty() && !lines.is_empty() {
            self.widths = vec![0; R::COLUMNS.len()];
            lines.insert(0, R::COLUMNS.iter().map(|&name| name.to_owned()).collect());
        }
        for cell in lines.iter_mut().flatten() {
            if let Cow::Owned(escaped) = escape(cell) {
                *cell = escaped;
            }
        }
        for line in &lines {
            for (width, cell) in self.widths.iter_mut().zip(line) {
                *width = (*width).max(measure_text_width(cell));
            }
        }
        let mut out = String::new();
        for line in &lines {
            self.line(line, terminal, &mut out);
        }
        out
    }

    fn line(&self, cells: &[String], terminal: Option<usize>, out: &mut String) {
        let Some((text, columns)) = cells.split_last() else { return };
        let mut used = 0;
        for (cell, &width) in columns.iter().zip(&self.widths) {
            let _ = write!(out, "{}  ", pad_str(cell, width, Alignment::Left, None));
            used += width + 2;
        }
        match terminal {
            Some(width) => *out += &truncate_str(text, width.saturating_sub(used).max(NARROWEST), "…"),
            None => *out += text,
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
}

/// The text with its control characters spelled out, so that no task and no client can steer the operator's terminal.
pub(super) fn escape(text: &str) -> Cow<'_, str> {
    if !text.contains(steers) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Control characters, and those that turn the direction of the text around them.
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Pair(&'static str, &'static str);

    impl Row for Pair {
        const COLUMNS: &'static [&'static str] = &["NAME", "TEXT"];
        fn cells(&self) -> Vec<String> {
            vec![self.0.into(), self.1.into()]
        }
    }

    #[test]
    fn columns_are_aligned_where_characters_are_wide() {
        let page = Table::default().page(&[Pair("张三", "任务:1"), Pair("bob", "x")], None);
        assert_eq!(page, "NAME  TEXT\n张三  任务:1\nbob   x\n");
    }

    #[test]
    fn later_pages_have_no_heading_and_keep_the_columns() {
        let mut table = Table::default();
        table.page(&[Pair("a long name", "x")], None);
        assert_eq!(table.page(&[Pair("b", "y")], None), "b            y\n");
    }

    #[test]
    fn only_a_terminal_has_its_text_cut() {
        let long = "一二三四五六七八九十一二三四五六七八九十";
        let cut = Table::default().page(&[Pair("bob", long)], Some(24));
        assert!(cut.lines().all(|line| measure_text_width(line) <= 24), "{cut}");
        assert!(cut.ends_with("…\n"), "{cut}");
        assert!(Table::default().page(&[Pair("bob", long)], None).ends_with(&format!("{long}\n")));
    }

    #[test]
    fn control_characters_are_spelled_out() {
        assert_eq!(escape("a\tb\u{1b}[2J\r\n\u{202e}c"), "a\\tb\\u{1b}[2J\\r\\n\\u{202e}c");
        assert_eq!(escape("任务:1 é 🎉"), "任务:1 é 🎉");
    }
}
