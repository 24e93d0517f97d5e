//! Draws the board.

use std::time::Duration;

use console::{measure_text_width, truncate_str};
use indicatif::HumanCount;
use ratatui::buffer::Buffer;
use ratatui::layout::{Alignment, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Block, BorderType, Clear, Padding, Paragraph, RenderDirection, Sparkline, Widget};

use super::board::{Board, Line, Mode, safe};
use super::look::{Look, View};
use crate::ctl::finding::Status;
use crate::ctl::moment::{Moment, Times, span};
use crate::ctl::rows;
use crate::ctl::table::{Column, GAP, Row, Widths};
use crate::task::Time;
use crate::terminal::escape;
use crate::wire::control as pb;

/// What stands above the table when nothing is wrong: title, gap, totals, two rates, gap, attention, gap, views.
const ABOVE: u16 = 9;
/// Things that need attention, at most.
const ATTENTION: u16 = 3;
/// The latest outcomes, at most.
const OUTCOMES: u16 = 20;
/// Rows they get before a long table gets more...
const FAIR_OUTCOMES: u16 = 6;
/// ...and rows that table gets before they get any.
const FAIR_TABLE: u16 = 8;
/// An answer that takes longer is waited for in sight.
const PATIENCE: i64 = 3_000;
/// Columns that are not needed to see what is wrong, and how wide the screen is that has room for them.
const LEFT_OUT: &[(&str, u16)] = &[
    ("SINCE", 70),
    ("WINDOW", 80),
    ("OLDEST", 90),
    ("PEER", 90),
    ("ATTEMPT", 90),
    ("RETRY", 130),
    ("LIMITS", 130),
    ("SEQ", u16::MAX),
];

const HELP: &str = "\
1 2 3 4   groups, clients, tasks, dead letters
tab       the next of them
enter     open the task, with all that came of it
↑ ↓ k j   move; also the page keys, g and G
/         show only what contains a text
esc       show all again
s         sort by something else
p         pause or resume the group
q         quit

Lag counts what is not settled. The curve of
settled/s is of all outcomes: retries, failures
and leases that ended, too.";

/// What has which colour: as little as possible.
#[derive(Clone, Copy)]
pub(super) struct Theme {
    faint: Style,
    strong: Style,
    accent: Style,
    warning: Style,
    failed: Style,
    selected: Style,
}

impl Theme {
    /// Without colours.
    pub(super) fn plain() -> Theme {
        let strong = Style::new().add_modifier(Modifier::BOLD);
        Theme {
            faint: Style::new().add_modifier(Modifier::DIM),
            strong,
            accent: strong,
            warning: strong,
            failed: strong,
            selected: Style::new().add_modifier(Modifier::REVERSED).remove_modifier(Modifier::DIM),
        }
    }

    /// In colours, unless NO_COLOR is set to something.
    pub(super) fn of_environment() -> Theme {
        if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) {
            return Theme::plain();
        }
        Theme {
            accent: Style::new().fg(Color::Cyan),
            warning: Style::new().fg(Color::Yellow),
            failed: Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
            ..Theme::plain()
        }
    }

    /// What a cell has, by what it says.
    fn of_cell(&self, heading: &str, cell: &str) -> Style {
        match (heading, cell.split(' ').next().unwrap_or_default()) {
            (_, "-" | "0" | "0.0") => self.faint,
            ("STATE", "paused" | "never") => self.warning,
            ("DEAD", _) => self.failed,
            ("OUTCOME", "FAILED" | "EXHAUSTED" | "EXPIRED") => self.failed,
            ("OUTCOME", "RETRY" | "LOST" | "TIMED_OUT") => self.warning,
            ("SINCE" | "ACCEPTED" | "AT", _) => self.faint,
            _ => Style::new(),
        }
    }
}

/// One frame.
pub(super) struct Frame<'a> {
    pub(super) board: &'a Board,
    pub(super) theme: Theme,
    pub(super) now: Time,
    /// Somebody is looking: there are keys, and a selection.
    pub(super) live: bool,
}

impl Frame<'_> {
    /// How high a frame is that is not for a terminal, with at most that many groups.
    pub(super) fn height_of(look: &Look, most: usize) -> u16 {
        let attention = u16::try_from(look.findings.len()).unwrap_or(ATTENTION).clamp(1, ATTENTION);
        ABOVE - 1 + attention + height(look.groups.len().min(most)) + outcomes_of(look).min(FAIR_OUTCOMES + 2)
    }

    pub(super) fn draw(&self, buffer: &mut Buffer) {
        let area = buffer.area;
        let Rect { width, height, .. } = area;
        if width < 20 || height < 6 {
            return put(buffer, 0, 0, &Text::from("too small"));
        }
        let mut y = self.title(buffer);
        if let Some(id) = self.board.open() {
            self.task(id, buffer, y + 1, height - 1);
        } else if let Some(look) = &self.board.look {
            y = self.totals(look, buffer, y + 1);
            y = self.attention(look, buffer, y + 1);
            y = self.views(buffer, y + 1);
            let bottom = height - u16::from(self.live);
            let (columns, lines) = self.board.table(Times::Ago(self.now));
            let (room, wanted) = (bottom.saturating_sub(y), outcomes_of(look));
            let left = room.saturating_sub(self::height(lines.len()));
            let fair = (FAIR_OUTCOMES + 2).min(room.saturating_sub(FAIR_TABLE));
            let outcomes = wanted.min(left.max(fair));
            self.table(columns, lines, buffer, y, bottom - outcomes);
            if outcomes > 2 {
                self.outcomes(look, buffer, bottom - outcomes, bottom);
            }
        }
        if self.live {
            self.footer(buffer, height - 1);
            if self.board.mode == Mode::Help {
                self.help(buffer);
            }
        }
    }

    fn title(&self, buffer: &mut Buffer) -> u16 {
        let theme = &self.theme;
        let title = Text::from(vec![
            Span::styled("contact", theme.strong),
            Span::raw("  "),
            Span::raw(escape(&self.board.server).into_owned()),
        ]);
        put(buffer, 0, 0, &title);
        let server = self.board.look.as_ref().and_then(|look| look.server.as_ref());
        let since = |since: &Time| {
            let at = Moment(since.0);
            format!("since {} UTC, {}", at.exact().get(11..19).unwrap_or_default(), at.ago(self.now))
        };
        let trouble = match (&self.board.trouble, &self.board.waiting) {
            (Some((at, why)), _) => Some(format!("lost contact {}; trying again: {why}", since(at))),
            (None, Some(at)) if self.now.0 - at.0 > PATIENCE => Some(format!("no answer {}", since(at))),
            _ => None,
        };
        if let Some(trouble) = trouble {
            put(buffer, 0, 1, &Text::styled(escape(&trouble).into_owned(), theme.failed));
            return 2;
        }
        if let Some(server) = server {
            let up = Duration::from_millis(u64::try_from(server.now - server.started_at).unwrap_or(0));
            let says = format!("{}, up {}", escape(&server.version), span(up));
            let used = title.width() + 2;
            let x = usize::from(buffer.area.width).saturating_sub(measure_text_width(&says));
            if x >= used {
                put(buffer, x as u16, 0, &Text::styled(says, theme.faint));
            }
        }
        1
    }

    fn totals(&self, look: &Look, buffer: &mut Buffer, y: u16) -> u16 {
        let groups = &look.groups;
        let sum = |of: fn(&pb::Group) -> u64| groups.iter().map(of).sum::<u64>();
        let served: u64 = sum(|group| group.clients.into());
        let clients = look.server.as_ref().map_or(served, |server| server.clients.into());
        let dead = sum(|group| group.dead);
        let mut spans = vec![];
        for (name, value, style) in [
            ("clients", clients, self.theme.strong),
            ("groups", groups.len() as u64, self.theme.strong),
            ("in flight", sum(|group| group.in_flight), self.theme.strong),
            ("lag", sum(|group| group.lag), self.theme.strong),
            ("dead", dead, if dead > 0 { self.theme.failed } else { self.theme.strong }),
        ] {
            spans.push(Span::styled(format!("{name} "), self.theme.faint));
            spans.push(Span::styled(format!("{}   ", HumanCount(value)), style));
        }
        put(buffer, 0, y, &Text::from(spans));
        self.rate("settled/s ", Some(groups.iter().map(|group| group.rate).sum()), |rate| rate.results, buffer, y + 1);
        self.rate("accepted/s", None, |rate| rate.tasks, buffer, y + 2);
        y + 3
    }

    /// A rate now, and how it was. The server's own, if there is one, is smoother than the difference of two looks.
    fn rate(&self, name: &str, now: Option<f64>, of: impl Fn(&super::board::Rate) -> f64, buffer: &mut Buffer, y: u16) {
        let rates = &self.board.rates;
        let now = now.or_else(|| rates.back().copied().flatten().map(|rate| of(&rate)));
        let shown = now.map_or("-".into(), |rate| HumanCount(rate.round() as u64).to_string());
        let spans = [
            Span::styled(format!("{name} "), self.theme.faint),
            Span::styled(format!("{shown:>9}"), self.theme.strong),
        ];
        let line = Text::from(spans.to_vec());
        let x = line.width() as u16 + 2;
        put(buffer, 0, y, &line);
        if buffer.area.width > x {
            let area = Rect::new(x, y, buffer.area.width - x, 1);
            let bars: Vec<Option<u64>> =
                rates.iter().rev().map(|rate| rate.map(|rate| of(&rate).ceil() as u64)).collect();
            let spark = Sparkline::default().max(top(&bars, area.width)).data(bars).style(self.theme.accent);
            spark.direction(RenderDirection::RightToLeft).absent_value_symbol(" ").render(area, buffer);
        }
    }

    fn attention(&self, look: &Look, buffer: &mut Buffer, y: u16) -> u16 {
        if look.findings.is_empty() {
            put(buffer, 0, y, &Text::styled("nothing needs attention", self.theme.faint));
            return y + 1;
        }
        let most = if buffer.area.height < 20 && self.live { 1 } else { usize::from(ATTENTION) };
        let shown = if look.findings.len() > most { most - usize::from(most > 1) } else { most };
        let mut at = y;
        for finding in look.findings.iter().take(shown) {
            let style = if finding.status == Status::Failed { self.theme.failed } else { self.theme.warning };
            let remedy = finding.remedy.as_deref().unwrap_or_default();
            let (check, says) = (format!("{:<12}  ", finding.check), escape(&finding.says));
            let room = |used: usize| usize::from(buffer.area.width).saturating_sub(used);
            let says = truncate_str(&says, room(check.len()), "…").into_owned();
            let left = room(check.len() + measure_text_width(&says) + 2);
            let remedy = truncate_str(&escape(remedy), left, "…").into_owned();
            let spans =
                [Span::styled(check, style), Span::raw(says), Span::styled(format!("  {remedy}"), self.theme.faint)];
            put(buffer, 0, at, &Text::from(spans.to_vec()));
            at += 1;
        }
        if look.findings.len() > shown && most > 1 {
            let more = format!("and {} more: contactctl doctor", look.findings.len() - shown);
            put(buffer, 0, at, &Text::styled(more, self.theme.faint));
            at += 1;
        }
        at
    }

    /// The tabs, and what is seen of the one that is shown.
    fn views(&self, buffer: &mut Buffer, y: u16) -> u16 {
        let tab = |view: View, name: &'static str, number: char| {
            let style = if self.board.view == view { self.theme.strong } else { self.theme.faint };
            [Span::styled(format!("{number} "), self.theme.faint), Span::styled(name, style), Span::raw("   ")]
        };
        let mut left = Text::default();
        if self.live {
            left.spans.extend(tab(View::Groups, "groups", '1'));
            left.spans.extend(tab(View::Clients, "clients", '2'));
            left.spans.extend(tab(View::Tasks, "tasks", '3'));
            left.spans.extend(tab(View::Dead, "dead", '4'));
        } else {
            left.spans.push(Span::styled("groups", self.theme.strong));
        }
        let filter = match self.board.filter.as_str() {
            "" => String::new(),
            filter => format!("with {filter:?}, "),
        };
        let right = format!("{filter}by {}", self.board.sorted_by());
        let x = usize::from(buffer.area.width).saturating_sub(measure_text_width(&right));
        put(buffer, 0, y, &left);
        if x > left.width() && self.live {
            put(buffer, x as u16, y, &Text::styled(right, self.theme.faint));
        }
        y + 1
    }

    fn table(&self, columns: &[Column], lines: Vec<Line>, buffer: &mut Buffer, y: u16, bottom: u16) {
        let room = usize::from(bottom.saturating_sub(y + 1));
        if room == 0 {
            return;
        }
        if lines.is_empty() {
            let nothing = if self.board.filter.is_empty() { "there are none" } else { "none with that: esc shows all" };
            return put(buffer, 0, y, &Text::styled(nothing, self.theme.faint));
        }
        let at = self.board.at(&lines);
        let first = (at + 1).saturating_sub(room);
        let selected = (self.live).then(|| at - first);
        let shown: Vec<_> = lines.into_iter().skip(first).take(room).collect();
        self.rows(columns, &shown, selected, buffer, y);
    }

    fn outcomes(&self, look: &Look, buffer: &mut Buffer, y: u16, bottom: u16) {
        put(buffer, 0, y + 1, &Text::styled("latest outcomes", self.theme.strong));
        let most = usize::from(bottom - y - 2);
        let latest = look.results.iter().rev().take(most);
        let lines = latest.map(|result| Line {
            key: String::new(),
            group: None,
            task: None,
            cells: safe(rows::TaskResult::from(result.clone()).cells(Times::Ago(self.now))),
        });
        let lines: Vec<_> = lines.collect();
        self.lines_without_heading(rows::TaskResult::COLUMNS, &lines, buffer, y + 2);
    }

    fn rows(&self, columns: &[Column], lines: &[Line], selected: Option<usize>, buffer: &mut Buffer, y: u16) {
        let shown = Shown::of(columns, lines, buffer.area.width);
        let headings: Vec<_> = columns.iter().map(|column| column.heading().to_owned()).collect();
        put(buffer, 0, y, &shown.line(&headings, |_, _| self.theme.faint));
        self.put_lines(&shown, lines, selected, buffer, y + 1);
    }

    fn lines_without_heading(&self, columns: &[Column], lines: &[Line], buffer: &mut Buffer, y: u16) {
        let shown = Shown::of(columns, lines, buffer.area.width);
        self.put_lines(&shown, lines, None, buffer, y);
    }

    fn put_lines(&self, shown: &Shown<'_>, lines: &[Line], selected: Option<usize>, buffer: &mut Buffer, y: u16) {
        for (at, line) in lines.iter().enumerate() {
            let y = y + at as u16;
            put(buffer, 0, y, &shown.line(&line.cells, |heading, cell| self.theme.of_cell(heading, cell)));
            if selected == Some(at) {
                buffer.set_style(Rect::new(0, y, buffer.area.width, 1), self.theme.selected);
            }
        }
    }

    /// A task: what it is, where it stands, and the latest that came of it.
    fn task(&self, id: u64, buffer: &mut Buffer, mut y: u16, bottom: u16) {
        let ledger = self.board.look.as_ref().and_then(|look| look.ledger.as_ref());
        let of_this = |ledger: &pb::TaskLedger| ledger.task.id == id;
        let ledger = match ledger {
            Some(Ok(ledger)) if of_this(ledger) => rows::Ledger::from(ledger.clone()),
            Some(Err(why)) => return put(buffer, 0, y, &Text::styled(escape(why).into_owned(), self.theme.warning)),
            _ => return put(buffer, 0, y, &Text::styled(format!("task {id} …"), self.theme.faint)),
        };
        let times = Times::Ago(self.now);
        for (name, value) in ledger.task.properties(times) {
            let name = Span::styled(format!("{name:<13} "), self.theme.faint);
            put(buffer, 0, y, &Text::from(vec![name, Span::raw(escape(&value).into_owned())]));
            y += 1;
        }
        y = self.section("groups", &ledger.groups, ledger.groups.len(), buffer, y + 1, bottom);
        // The latest, where there is no room for all.
        let room = usize::from(bottom.saturating_sub(y + 3));
        let left_out = ledger.results.len().saturating_sub(room);
        let title = if left_out > 0 { format!("results, without the first {left_out}") } else { "results".into() };
        self.section(&title, &ledger.results[left_out..], room, buffer, y + 1, bottom);
    }

    fn section<R: Row>(&self, title: &str, rows: &[R], most: usize, buffer: &mut Buffer, y: u16, bottom: u16) -> u16 {
        let room = usize::from(bottom.saturating_sub(y + 2)).min(most);
        if rows.is_empty() || room == 0 {
            return y - 1;
        }
        put(buffer, 0, y, &Text::styled(title.to_owned(), self.theme.strong));
        let line = |row: &R| Line {
            key: String::new(),
            group: None,
            task: None,
            cells: safe(row.cells(Times::Ago(self.now))),
        };
        let lines: Vec<_> = rows.iter().take(room).map(line).collect();
        self.rows(R::COLUMNS, &lines, None, buffer, y + 1);
        y + 2 + lines.len() as u16
    }

    fn footer(&self, buffer: &mut Buffer, y: u16) {
        let (text, style) = match (&self.board.mode, &self.board.message) {
            (Mode::Confirm { group, paused: true }, _) => (format!("pause {group}? y / n"), self.theme.warning),
            (Mode::Confirm { group, .. }, _) => (format!("resume {group}? y / n"), self.theme.warning),
            (Mode::Filter, _) => (format!("/{}▏  enter keeps it, esc shows all", self.board.filter), self.theme.strong),
            (Mode::Task(_), _) => ("any key goes back   q quit".into(), self.theme.faint),
            (_, Some(message)) => (message.clone(), self.theme.warning),
            (_, None) => (
                "q quit   ? help   tab view   ↑↓ move   enter task   p pause   / filter   s sort".into(),
                self.theme.faint,
            ),
        };
        put(buffer, 0, y, &Text::styled(escape(&text).into_owned(), style));
    }

    fn help(&self, buffer: &mut Buffer) {
        let area = buffer.area;
        // A frame and a margin around what is longest.
        let longest = HELP.lines().map(measure_text_width).max().unwrap_or_default() as u16;
        let (width, height) = ((longest + 6).min(area.width), (HELP.lines().count() as u16 + 4).min(area.height));
        let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
        Clear.render(area, buffer);
        let block = Block::bordered()
            .border_type(BorderType::Rounded)
            .border_style(self.theme.faint)
            .title(" keys ")
            .title_alignment(Alignment::Center)
            .padding(Padding::new(2, 2, 1, 1));
        Paragraph::new(HELP).block(block).render(area, buffer);
    }
}

/// What a full bar stands for: the most of what is in sight, but for the few that would flatten all others.
fn top(bars: &[Option<u64>], width: u16) -> u64 {
    let mut seen: Vec<u64> = bars.iter().take(width.into()).copied().flatten().collect();
    seen.sort_unstable();
    let usual = seen.len().saturating_sub(1) * 19 / 20;
    match (seen.get(usual), seen.last()) {
        (Some(&usual), Some(&most)) => most.min(usual.saturating_mul(2)).max(1),
        _ => 1,
    }
}

/// How high a table is, heading included; one without rows says so.
fn height(rows: usize) -> u16 {
    u16::try_from(rows + 1).unwrap_or(u16::MAX)
}

/// How many lines the latest outcomes take, under a gap and a title.
fn outcomes_of(look: &Look) -> u16 {
    match u16::try_from(look.results.len()).unwrap_or(OUTCOMES).min(OUTCOMES) {
        0 => 0,
        some => some + 2,
    }
}

/// Columns that are shown, and how wide.
struct Shown<'a> {
    columns: Vec<(usize, &'a Column)>,
    widths: Vec<usize>,
}

impl<'a> Shown<'a> {
    fn of(columns: &'a [Column], lines: &[Line], room: u16) -> Shown<'a> {
        let wanted = |column: &Column| {
            let from = LEFT_OUT.iter().find(|(heading, _)| *heading == column.heading());
            from.is_none_or(|(_, from)| room >= *from)
        };
        let columns: Vec<_> = columns.iter().enumerate().filter(|(_, column)| wanted(column)).collect();
        let plain: Vec<Column> = columns.iter().map(|(_, column)| **column).collect();
        let mut widths = Widths::of(&plain);
        for line in lines {
            let cells: Vec<_> = columns.iter().map(|(at, _)| line.cells[*at].clone()).collect();
            widths.add(&cells);
        }
        let widths = widths.fit(&plain, Some(room.into()));
        Shown { columns, widths }
    }

    fn line(&self, cells: &[String], style: impl Fn(&str, &str) -> Style) -> Text<'static> {
        let mut spans = Vec::with_capacity(2 * self.columns.len());
        for ((at, column), &width) in self.columns.iter().zip(&self.widths) {
            let cell = &cells[*at];
            spans.push(Span::styled(column.pad(cell, width).into_owned(), style(column.heading(), cell)));
            spans.push(Span::raw(" ".repeat(GAP)));
        }
        Text::from(spans)
    }
}

/// What does not fit is cut.
fn put(buffer: &mut Buffer, x: u16, y: u16, line: &Text<'_>) {
    if y < buffer.area.height && x < buffer.area.width {
        buffer.set_line(x, y, line, buffer.area.width - x);
    }
}

/// A line of the frame without its colours.
pub(super) fn text(buffer: &Buffer, y: u16) -> String {
    let mut line = String::new();
    let mut x = 0;
    while x < buffer.area.width {
        let symbol = buffer[(x, y)].symbol();
        line.push_str(symbol);
        x += measure_text_width(symbol).max(1) as u16;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::{NOW, board, group, press};
    use super::*;
    use crate::ctl::Error;

    fn drawn(board: &Board, width: u16, height: u16) -> Vec<String> {
        let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
        Frame { board, theme: Theme::plain(), now: NOW, live: true }.draw(&mut buffer);
        (0..height).map(|y| text(&buffer, y).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_help_is_whole() {
        let mut board = board(vec![]);
        press(&mut board, "?");
        let frame = drawn(&board, 100, 30).join("\n");
        for line in HELP.lines() {
            assert!(frame.contains(line), "{line:?} is cut: {frame}");
        }
    }

    #[test]
    fn a_task_that_is_open_shows_all_that_came_of_it_or_the_latest() {
        let mut board = board(vec![]);
        press(&mut board, "3");
        let task = pb::Task { id: 17, task: "resize\u{1b}".into(), accepted_at: NOW.0 - 5000, ..Default::default() };
        let result =
            |seq| pb::TaskResult { seq, task_id: 17, ret: format!("said {seq}"), at: NOW.0, ..Default::default() };
        let ledger = pb::TaskLedger {
            task: Some(task.clone()).into(),
            groups: vec![pb::TaskInGroup { group: "mail".into(), ..Default::default() }],
            results: (1..=30).map(result).collect(),
            ..Default::default()
        };
        let look = |ledger| Look { tasks: vec![task.clone()], ledger, ..super::super::board::tests::look(vec![]) };
        board.looked(look(None));
        press(&mut board, "\n");
        assert!(drawn(&board, 100, 24).join("\n").contains("task 17 …"), "not seen yet");
        board.looked(look(Some(Ok(ledger))));
        let frame = drawn(&board, 100, 24).join("\n");
        for says in
            ["text          resize\\u{1b}", "mail", "results, without the first", "said 30", "any key goes back"]
        {
            assert!(frame.contains(says), "{says:?} in {frame}");
        }
        assert!(!frame.contains("said 1\n"), "{frame}");
        drawn(&board, 20, 6);
        board.looked(look(Some(Err("there is no task 17".into()))));
        assert!(drawn(&board, 100, 24).join("\n").contains("there is no task 17"));
    }

    #[test]
    fn a_frame_shows_the_fleet() {
        let mut board = board(vec![pb::Group { rate: 3.4, ..group("缩略图", 1203) }, group("mail", 2)]);
        if let Some(look) = &mut board.look {
            look.results = vec![pb::TaskResult {
                seq: 5,
                task_id: 17,
                group: "mail".into(),
                client: "w1".into(),
                attempt: 1,
                ret: "sent".into(),
                at: NOW.0 - 3000,
                ..Default::default()
            }];
        }
        let frame = drawn(&board, 100, 24);
        for (y, says) in [
            (2, "clients 0   groups 2   in flight 1,205   lag 1,205   dead 0"),
            (3, "settled/s          3"),
            (6, "nothing needs attention"),
            (9, "GROUP   CLIENTS   LAG  IN FLIGHT  OLDEST  SINCE  PER SECOND  DEAD  STATE"),
            (10, "缩略图        1  1203       1203       -  -             3.4     0  running"),
            (11, "mail          1     2          2       -  -             0.0     0  running"),
            (21, "latest outcomes"),
            (22, "3 s ago    17  mail   w1            1  DONE     sent"),
            (23, "q quit   ? help   tab view   ↑↓ move   enter task   p pause   / filter   s sort"),
        ] {
            assert_eq!(frame[y], says, "\n{}", frame.join("\n"));
        }
        assert!(
            frame[0].starts_with("contact  127.0.0.1:50052") && frame[0].ends_with("1.2.3, up 20573 d"),
            "{}",
            frame[0]
        );
        assert!(frame[8].starts_with("1 groups   2 clients   3 tasks") && frame[8].ends_with("by lag"), "{}", frame[8]);
    }

    #[test]
    fn any_size_is_drawn_without_a_panic() {
        let mut board = board((0..50).map(|n| group(&format!("群组 {n} \u{1b}[2J"), n)).collect());
        board.lost(&Error::NoServer("127.0.0.1:50052".into()));
        for keys in ["", "?", "x/wor\n", "\u{1b}G", "p", "y2", "3"] {
            for c in keys.chars() {
                press(&mut board, &c.to_string());
            }
            for (width, height) in [(1, 1), (19, 50), (20, 6), (60, 15), (61, 24), (250, 80)] {
                let frame = drawn(&board, width, height);
                assert!(
                    frame.iter().all(|line| measure_text_width(line) <= usize::from(width) && !line.contains('\u{1b}'))
                );
            }
        }
    }

    #[test]
    fn lost_contact_is_said_with_its_time_and_the_last_look_stays() {
        let mut board = board(vec![group("mail", 2)]);
        board.lost(&Error::NoServer("127.0.0.1:50052".into()));
        let frame = drawn(&board, 100, 24);
        let says = "lost contact since 08:00:00 UTC, now; trying again: no server answers at 127.0.0.1:50052;";
        assert!(frame[1].starts_with(says), "{}", frame[1]);
        assert!(frame.iter().any(|line| line.starts_with("mail ")), "\n{}", frame.join("\n"));
    }

    #[test]
    fn one_outlier_does_not_flatten_the_curve() {
        let bars: Vec<_> = [Some(9000), None].into_iter().chain((0..40).map(|n| Some(90 + n % 10))).collect();
        assert_eq!(top(&bars, 100), 198);
        assert_eq!(top(&bars[2..], 100), 99);
        assert_eq!((top(&bars, 0), top(&[], 100)), (1, 1));
    }

    #[test]
    fn an_answer_that_takes_long_is_waited_for_in_sight() {
        let mut board = board(vec![group("mail", 2)]);
        board.asked(Time(NOW.0 - 2_000));
        assert!(!drawn(&board, 100, 24)[1].contains("no answer"));
        board.asked(Time(NOW.0 - 5_000));
        assert_eq!(drawn(&board, 100, 24)[1], "no answer since 07:59:55 UTC, 5 s ago");
    }

    #[test]
    fn a_narrow_screen_keeps_what_shows_whether_something_is_wrong() {
        let frame = drawn(&board(vec![group("a group with a long name", 2)]), 60, 20);
        let heading = frame.iter().find(|line| line.starts_with("GROUP")).cloned().unwrap_or_default();
        assert!(heading.contains("LAG") && heading.contains("DEAD") && !heading.contains("OLDEST"), "{heading}");
        assert!(
            frame.iter().any(|line| line.starts_with("a group") && line.ends_with("running")),
            "\n{}",
            frame.join("\n")
        );
    }
}
