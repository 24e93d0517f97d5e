//! Tables: columns as wide as what is in them, or as the terminal lets them be.

use std::borrow::Cow;
use std::fmt::Write as _;

use console::{Alignment, measure_text_width, pad_str, truncate_str};
use serde::Serialize;

use super::moment::Times;
use crate::terminal::escape;

/// Between two columns.
pub(super) const GAP: usize = 2;
/// A heading that is wider than what is under it is cut to this width when room is short.
const SHORT_HEADING: usize = 4;
/// A name is not cut below this.
const SHORT_NAME: usize = 8;
/// The width that free text gets before names are cut...
const FAIR_TEXT: usize = 24;
/// ...and its least width.
const SHORT_TEXT: usize = 16;

/// What can be printed as an object or as a line of a table.
pub(super) trait Row: Serialize {
    /// The columns.
    const COLUMNS: &'static [Column];
    /// The text under each of them.
    fn cells(&self, times: Times) -> Vec<String>;
}

/// A column: its heading, and what is under it.
#[derive(Clone, Copy)]
pub(super) enum Column {
    /// Aligned at the right, and never cut.
    Number(&'static str),
    /// A word or a time, never cut.
    Word(&'static str),
    /// Cut where room is short.
    Name(&'static str),
    /// Free text, which is cut first. The last column, if there is one.
    Text(&'static str),
}

impl Column {
    pub(super) fn heading(&self) -> &'static str {
        match self {
            Column::Number(name) | Column::Word(name) | Column::Name(name) | Column::Text(name) => name,
        }
    }

    /// The cell, exactly so wide.
    pub(super) fn pad<'a>(&self, cell: &'a str, width: usize) -> Cow<'a, str> {
        let side = if let Column::Number(_) = self { Alignment::Right } else { Alignment::Left };
        match truncate_str(cell, width, "…") {
            Cow::Borrowed(whole) => pad_str(whole, width, side, None),
            Cow::Owned(cut) => Cow::Owned(pad_str(&cut, width, side, None).into_owned()),
        }
    }
}

/// How wide the columns of a table want to be. They may grow from page to page, and never shrink.
#[derive(Default)]
pub(super) struct Widths {
    headings: Vec<usize>,
    cells: Vec<usize>,
}

impl Widths {
    pub(super) fn of(columns: &[Column]) -> Widths {
        let headings: Vec<_> = columns.iter().map(|column| measure_text_width(column.heading())).collect();
        Widths { cells: vec![0; headings.len()], headings }
    }

    pub(super) fn add(&mut self, cells: &[String]) {
        for (width, cell) in self.cells.iter_mut().zip(cells) {
            *width = (*width).max(measure_text_width(cell));
        }
    }

    /// How wide the columns are in a room of that width. Together they may be wider, if it is very small.
    pub(super) fn fit(&self, columns: &[Column], room: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<_> =
            self.headings.iter().zip(&self.cells).map(|(heading, cell)| *heading.max(cell)).collect();
        let Some(room) = room else { return widths };
        let over = |widths: &[usize]| (widths.iter().sum::<usize>() + GAP * (widths.len() - 1)).saturating_sub(room);
        let cut_text = |widths: &mut Vec<usize>, least: usize| {
            if let (Some(Column::Text(_)), Some(text)) = (columns.last(), widths.last().copied()) {
                let cut = text.saturating_sub(over(widths)).max(least.min(text));
                widths.pop();
                widths.push(cut);
            }
        };
        cut_text(&mut widths, FAIR_TEXT);
        for at in 0..widths.len() {
            let least = self.cells[at].max(SHORT_HEADING.min(self.headings[at]));
            if !matches!(columns[at], Column::Text(_)) && over(&widths) > 0 {
                widths[at] = widths[at].saturating_sub(over(&widths)).max(least);
            }
        }
        while over(&widths) > 0 {
            let names =
                (0..widths.len()).filter(|&at| matches!(columns[at], Column::Name(_)) && widths[at] > SHORT_NAME);
            let Some(widest) = names.max_by_key(|&at| widths[at]) else { break };
            widths[widest] -= 1;
        }
        cut_text(&mut widths, SHORT_TEXT);
        widths
    }
}

/// A table that grows page by page.
#[derive(Default)]
pub(super) struct Table {
    widths: Option<Widths>,
}

impl Table {
    /// The lines of these rows, under the heading if they are the first ones. Only a terminal has a width.
    pub(super) fn page<R: Row>(&mut self, rows: &[R], terminal: Option<usize>, times: Times) -> String {
        let mut lines: Vec<Vec<String>> = rows.iter().map(|row| row.cells(times)).collect();
        for cell in lines.iter_mut().flatten() {
            if let Cow::Owned(escaped) = escape(cell) {
                *cell = escaped;
            }
        }
        let begins = self.widths.is_none() && !rows.is_empty();
        let widths = self.widths.get_or_insert_with(|| Widths::of(R::COLUMNS));
        lines.iter().for_each(|line| widths.add(line));
        let widths = widths.fit(R::COLUMNS, terminal);
        let mut out = String::new();
        if begins {
            put_line(R::COLUMNS, R::COLUMNS.iter().map(Column::heading), &widths, &mut out);
        }
        for line in &lines {
            put_line(R::COLUMNS, line.iter().map(String::as_str), &widths, &mut out);
        }
        out
    }
}

fn put_line<'a>(columns: &[Column], cells: impl Iterator<Item = &'a str>, widths: &[usize], out: &mut String) {
    for (at, ((column, cell), &width)) in columns.iter().zip(cells).zip(widths).enumerate() {
        let gap = if at == 0 { 0 } else { GAP };
        let _ = write!(out, "{:gap$}{}", "", column.pad(cell, width));
    }
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Line(&'static str, u32, &'static str);

    impl Row for Line {
        const COLUMNS: &'static [Column] = &[Column::Name("NAME"), Column::Number("ATTEMPT"), Column::Text("TEXT")];
        fn cells(&self, _: Times) -> Vec<String> {
            vec![self.0.into(), self.1.to_string(), self.2.into()]
        }
    }

    const LONG: &str = "一二三四五六七八九十一二三四五六七八九十";

    fn page(rows: &[Line], terminal: Option<usize>) -> String {
        Table::default().page(rows, terminal, Times::Exact)
    }

    #[test]
    fn columns_are_aligned_where_characters_are_wide_and_numbers_at_the_right() {
        let rows = [Line("张三", 12, "任务:1"), Line("bob", 3, "x")];
        assert_eq!(page(&rows, None), "NAME  ATTEMPT  TEXT\n张三       12  任务:1\nbob         3  x\n");
    }

    #[test]
    fn later_pages_have_no_heading_and_keep_the_columns() {
        let mut table = Table::default();
        table.page(&[Line("a long name", 1, "x")], None, Times::Exact);
        assert_eq!(table.page(&[Line("b", 2, "y")], None, Times::Exact), "b                  2  y\n");
    }

    #[test]
    fn only_a_terminal_has_anything_cut() {
        let rows = [Line("a client with a rather long name", 7, LONG)];
        assert!(page(&rows, None).contains(&format!("a client with a rather long name        7  {LONG}\n")));
        let widest = page(&rows, None).lines().map(measure_text_width).max().unwrap_or(0);
        assert_eq!(page(&rows, Some(widest)), page(&rows, None), "what has room is not cut");
    }

    #[test]
    fn a_narrow_terminal_cuts_text_then_headings_then_names() {
        let rows = [Line("a client with a rather long name", 7, LONG)];
        let at = |width| page(&rows, Some(width)).lines().last().unwrap_or_default().to_owned();
        assert_eq!(at(75), "a client with a rather long name        7  一二三四五六七八九十一二三四五…");
        assert_eq!(at(64), "a client with a rather long name     7  一二三四五六七八九十一…");
        assert_eq!(at(50), "a client with a r…     7  一二三四五六七八九十一…");
        assert_eq!(at(34), "a clien…     7  一二三四五六七八…");
        assert_eq!(at(1), "a clien…     7  一二三四五六七…", "names and text stay to be told apart, even so");
        for width in 32..90 {
            let page = page(&rows, Some(width));
            assert!(page.lines().all(|line| measure_text_width(line) <= width), "{width}:\n{page}");
        }
    }
}
