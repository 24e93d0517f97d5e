//! What the screen is about: what was seen, and what was chosen with the keys. No I/O, and no clock but what is handed in.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use super::look::{Look, View};
use crate::ctl::Error;
use crate::ctl::moment::Times;
use crate::ctl::rows;
use crate::ctl::table::{Column, Row};
use crate::task::Time;
use crate::terminal::escape;

/// Looks whose rates are remembered: what fits on a very wide screen.
const HISTORY: usize = 400;
/// Rows that a page key moves by.
const PAGE: usize = 10;

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Quit,
    /// Draw again.
    Nothing,
}

/// What the keys do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Look,
    /// What is typed is the filter.
    Filter,
    /// Whether to pause or resume a group.
    Confirm {
        group: String,
        paused: bool,
    },
    Help,
    /// This task is open.
    Task(u64),
}

/// How fast it went between two looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rate {
    /// Outcomes told, a second.
    pub(super) results: f64,
    /// Tasks accepted, a second.
    pub(super) tasks: f64,
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// What it is about, so that it stays selected when the order changes.
    pub(super) key: String,
    /// The group that `p` pauses or resumes.
    pub(super) group: Option<String>,
    /// The task that enter opens.
    pub(super) task: Option<u64>,
    pub(super) cells: Vec<String>,
}

/// The state of the screen.
pub(super) struct Board {
    pub(super) server: String,
    pub(super) look: Option<Look>,
    /// Since when there was no answer, and why.
    pub(super) trouble: Option<(Time, String)>,
    /// Since when an answer is awaited.
    pub(super) waiting: Option<Time>,
    /// The newest last; `None` where contact was lost between two looks.
    pub(super) rates: VecDeque<Option<Rate>>,
    pub(super) view: View,
    pub(super) mode: Mode,
    pub(super) filter: String,
    /// What was refused, or done.
    pub(super) message: Option<String>,
    /// By view.
    sorts: [usize; 4],
    /// By view: the key of the selected row, and where it was.
    selected: [(Option<String>, usize); 4],
    /// To be asked for with the next look.
    pause: Option<(String, bool)>,
    /// What is shown now is not what was looked for.
    hasty: bool,
}

impl Board {
    pub(super) fn new(server: &str) -> Board {
        Board {
            server: server.to_owned(),
            look: None,
            trouble: None,
            waiting: None,
            rates: VecDeque::new(),
            view: View::Groups,
            mode: Mode::Look,
            filter: String::new(),
            message: None,
            sorts: [0; 4],
            selected: Default::default(),
            pause: None,
            hasty: false,
        }
    }

    /// A look was begun.
    pub(super) fn asked(&mut self, now: Time) {
        self.waiting = Some(now);
    }

    /// A look came to an end.
    pub(super) fn looked(&mut self, look: Look) {
        self.waiting = None;
        let before = self.look.as_ref().and_then(|look| look.server.as_ref());
        if let (Some(before), Some(server)) = (before, &look.server) {
            let seconds = (server.now - before.now) as f64 / 1000.0;
            let same = before.started_at == server.started_at && seconds > 0.0 && self.trouble.is_none();
            let per_second = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            self.rates.push_back(same.then(|| Rate {
                results: per_second(server.results, before.results),
                tasks: per_second(server.tasks, before.tasks),
            }));
            self.rates.drain(..self.rates.len().saturating_sub(HISTORY));
        }
        self.trouble = None;
        self.look = Some(look);
    }

    /// A look came to nothing.
    pub(super) fn lost(&mut self, why: &Error) {
        self.waiting = None;
        match why {
            // The server is there, and said no to what was asked beside the look.
            Error::Refused(_) if self.trouble.is_none() => self.message = Some(why.to_string()),
            _ => {
                let since = self.trouble.take().map(|(since, _)| since);
                let seen = self.look.as_ref().map(|look| look.at);
                self.trouble = Some((since.or(seen).unwrap_or_else(Time::now), why.to_string()));
            }
        }
    }

    /// Whether to look at once.
    pub(super) fn is_hasty(&mut self) -> bool {
        std::mem::take(&mut self.hasty)
    }

    /// The group to pause (true) or to resume with the next look.
    pub(super) fn take_pause(&mut self) -> Option<(String, bool)> {
        self.pause.take()
    }

    /// The task to look at.
    pub(super) fn open(&self) -> Option<u64> {
        if let Mode::Task(id) = self.mode { Some(id) } else { None }
    }

    /// A key was pressed.
    pub(super) fn key(&mut self, key: KeyEvent) -> Wish {
        self.message = None;
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Wish::Quit;
        }
        match self.mode.clone() {
            Mode::Look => return self.command(key.code),
            Mode::Task(_) if key.code == KeyCode::Char('q') => return Wish::Quit,
            Mode::Help | Mode::Task(_) => self.mode = Mode::Look,
            Mode::Confirm { group, paused } => {
                if matches!(key.code, KeyCode::Char('y' | 'Y') | KeyCode::Enter) {
                    self.message = Some(format!("{group} is being {}", if paused { "paused" } else { "resumed" }));
                    self.pause = Some((group, paused));
                    self.hasty = true;
                }
                self.mode = Mode::Look;
            }
            Mode::Filter => match key.code {
                KeyCode::Enter => self.mode = Mode::Look,
                KeyCode::Esc => {
                    self.filter.clear();
                    self.mode = Mode::Look;
                }
                KeyCode::Backspace => drop(self.filter.pop()),
                KeyCode::Char('u') if control => self.filter.clear(),
                KeyCode::Char(c) if !control => self.filter.push(c),
                _ => {}
            },
        }
        Wish::Nothing
    }

    fn command(&mut self, key: KeyCode) -> Wish {
        match key {
            KeyCode::Char('q') => return Wish::Quit,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('1') => self.show(View::Groups),
            KeyCode::Char('2') => self.show(View::Clients),
            KeyCode::Char('3') => self.show(View::Tasks),
            KeyCode::Char('4') => self.show(View::Dead),
            KeyCode::Tab => self.turn(1),
            KeyCode::BackTab => self.turn(3),
            KeyCode::Enter => self.open_selected(),
            KeyCode::Up | KeyCode::Char('k') => self.select(|at| at.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(|at| at + 1),
            KeyCode::PageUp => self.select(|at| at.saturating_sub(PAGE)),
            KeyCode::PageDown => self.select(|at| at + PAGE),
            KeyCode::Home | KeyCode::Char('g') => self.select(|_| 0),
            KeyCode::End | KeyCode::Char('G') => self.select(|_| usize::MAX),
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('s') => self.sorts[self.view as usize] = (self.sort() + 1) % self.sort_names().len(),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('p') => self.offer_pause(),
            _ => {}
        }
        Wish::Nothing
    }

    fn show(&mut self, view: View) {
        if self.view != view {
            self.view = view;
            self.hasty = true;
        }
    }

    fn turn(&mut self, by: usize) {
        const VIEWS: [View; 4] = [View::Groups, View::Clients, View::Tasks, View::Dead];
        self.show(VIEWS[(self.view as usize + by) % VIEWS.len()]);
    }

    fn offer_pause(&mut self) {
        let (_, lines) = self.table(Times::Exact);
        let group = lines.get(self.at(&lines)).and_then(|line| line.group.clone());
        let groups = self.look.as_ref().map_or(&[][..], |look| &look.groups);
        match groups.iter().find(|known| Some(&known.name) == group.as_ref()) {
            Some(group) => self.mode = Mode::Confirm { group: group.name.clone(), paused: !group.paused },
            None => self.message = Some("p pauses a group: select one, or a client of one".into()),
        }
    }

    fn open_selected(&mut self) {
        let (_, lines) = self.table(Times::Exact);
        match lines.get(self.at(&lines)).and_then(|line| line.task) {
            Some(id) => {
                self.mode = Mode::Task(id);
                self.hasty = true;
            }
            None => self.message = Some("enter opens a task: select one in 3 or 4".into()),
        }
    }

    fn select(&mut self, to: impl Fn(usize) -> usize) {
        let (_, lines) = self.table(Times::Exact);
        let at = to(self.at(&lines)).min(lines.len().saturating_sub(1));
        self.selected[self.view as usize] = (lines.into_iter().nth(at).map(|line| line.key), at);
    }

    /// Which of these lines is the selected one.
    pub(super) fn at(&self, lines: &[Line]) -> usize {
        let (key, at) = &self.selected[self.view as usize];
        let found = key.as_ref().and_then(|key| lines.iter().position(|line| line.key == *key));
        found.unwrap_or((*at).min(lines.len().saturating_sub(1)))
    }

    fn sort(&self) -> usize {
        self.sorts[self.view as usize]
    }

    fn sort_names(&self) -> &'static [&'static str] {
        match self.view {
            View::Groups => &["lag", "name", "rate", "dead letters"],
            View::Clients => &["newest", "name", "in flight", "delivered"],
            View::Tasks | View::Dead => &["newest", "oldest"],
        }
    }

    /// What the table is sorted by.
    pub(super) fn sorted_by(&self) -> &'static str {
        self.sort_names()[self.sort()]
    }

    /// The table: its columns, and its rows as they are sorted and filtered.
    pub(super) fn table(&self, times: Times) -> (&'static [Column], Vec<Line>) {
        let Some(look) = &self.look else { return (&[], Vec::new()) };
        let by = self.sorted_by();
        match self.view {
            View::Groups => {
                let mut groups: Vec<_> = look.groups.iter().collect();
                groups.sort_by(|a, b| a.name.cmp(&b.name));
                match by {
                    "lag" => groups.sort_by_key(|group| Reverse(group.lag)),
                    "rate" => groups.sort_by(|a, b| b.rate.total_cmp(&a.rate)),
                    "dead letters" => groups.sort_by_key(|group| Reverse(group.dead)),
                    _ => {}
                }
                let lines = groups.into_iter().map(|group| {
                    let row = rows::Group::from(group.clone());
                    (group.name.clone(), Some(group.name.clone()), None, row)
                });
                (rows::Group::COLUMNS, self.lines(lines, times))
            }
            View::Clients => {
                let mut clients: Vec<_> = look.clients.iter().collect();
                clients.sort_by_key(|client| Reverse(client.since));
                match by {
                    "name" => clients.sort_by(|a, b| a.client.cmp(&b.client)),
                    "in flight" => clients.sort_by_key(|client| Reverse(client.in_flight)),
                    "delivered" => clients.sort_by_key(|client| Reverse(client.delivered)),
                    _ => {}
                }
                let lines = clients.into_iter().map(|client| {
                    let group = (!client.group.is_empty()).then(|| client.group.clone());
                    (
                        format!("{} {} {}", client.peer, client.client, client.since),
                        group,
                        None,
                        rows::Client::from(client.clone()),
                    )
                });
                (rows::Client::COLUMNS, self.lines(lines, times))
            }
            View::Tasks => {
                let mut tasks = look.recent();
                if by == "newest" {
                    tasks.reverse();
                }
                let lines = tasks.into_iter().map(|task| (task.task.id.to_string(), None, Some(task.task.id), task));
                (super::look::Recent::COLUMNS, self.lines(lines, times))
            }
            View::Dead => {
                let mut dead: Vec<_> = look.dead.iter().collect();
                if by == "newest" {
                    dead.reverse();
                }
                let lines = dead.into_iter().map(|letter| {
                    let (group, row) = (letter.group.clone(), rows::TaskResult::from(letter.clone()));
                    (letter.seq.to_string(), Some(group), Some(letter.task_id), row)
                });
                (rows::TaskResult::COLUMNS, self.lines(lines, times))
            }
        }
    }

    fn lines<R: Row>(
        &self,
        rows: impl Iterator<Item = (String, Option<String>, Option<u64>, R)>,
        times: Times,
    ) -> Vec<Line> {
        let wanted = self.filter.to_lowercase();
        let lines = rows.map(|(key, group, task, row)| Line { key, group, task, cells: safe(row.cells(times)) });
        lines.filter(|line| wanted.is_empty() || line.cells.join("\n").to_lowercase().contains(&wanted)).collect()
    }
}

/// Cells that cannot steer the terminal.
pub(super) fn safe(mut cells: Vec<String>) -> Vec<String> {
    for cell in &mut cells {
        if let Cow::Owned(escaped) = escape(cell) {
            *cell = escaped;
        }
    }
    cells
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::wire::control as pb;

    pub(in crate::ctl::top) const NOW: Time = Time(1_777_536_000_000);

    pub(in crate::ctl::top) fn group(name: &str, lag: u64) -> pb::Group {
        pb::Group { name: name.into(), clients: 1, lag, in_flight: lag, ..Default::default() }
    }

    pub(in crate::ctl::top) fn look(groups: Vec<pb::Group>) -> Look {
        let server = Some(pb::Server { now: NOW.0, started_at: 1, version: "1.2.3".into(), ..Default::default() });
        let (results, clients, tasks, dead, findings) = (vec![], vec![], vec![], vec![], vec![]);
        Look { at: NOW, server, groups, results, clients, tasks, dead, ledger: None, findings }
    }

    pub(in crate::ctl::top) fn board(groups: Vec<pb::Group>) -> Board {
        let mut board = Board::new("127.0.0.1:50052");
        board.looked(look(groups));
        board
    }

    pub(in crate::ctl::top) fn press(board: &mut Board, keys: &str) -> Wish {
        let press = |c| match c {
            '\n' => board.key(KeyCode::Enter.into()),
            '\u{1b}' => board.key(KeyCode::Esc.into()),
            c => board.key(KeyCode::Char(c).into()),
        };
        keys.chars().map(press).last().unwrap()
    }

    fn names(board: &Board) -> Vec<String> {
        board.table(Times::Exact).1.into_iter().map(|line| line.key).collect()
    }

    fn selected(board: &Board) -> String {
        let (_, lines) = board.table(Times::Exact);
        lines[board.at(&lines)].key.clone()
    }

    #[test]
    fn the_selection_stays_with_its_group_when_the_order_changes() {
        let mut board = board(vec![group("a", 9), group("b", 5), group("c", 7)]);
        assert_eq!((names(&board), selected(&board)), (vec!["a".into(), "c".into(), "b".into()], "a".into()));
        press(&mut board, "j");
        assert_eq!(selected(&board), "c");
        board.looked(look(vec![group("a", 1), group("b", 5), group("c", 0)]));
        assert_eq!((names(&board)[0].as_str(), selected(&board).as_str()), ("b", "c"));
        board.looked(look(vec![group("a", 1), group("b", 5)]));
        assert_eq!(selected(&board), "a", "where it was, when it is gone");
        press(&mut board, "kkkk");
        assert_eq!(selected(&board), "b");
        board.looked(look(vec![]));
        press(&mut board, "jGg");
        assert_eq!(names(&board), Vec::<String>::new());
    }

    #[test]
    fn a_group_is_paused_only_after_a_yes() {
        let mut board = board(vec![group("a", 1), pb::Group { paused: true, ..group("b", 0) }]);
        press(&mut board, "pn");
        assert_eq!((board.take_pause(), &board.mode), (None, &Mode::Look));
        press(&mut board, "py");
        assert_eq!(board.take_pause(), Some(("a".into(), true)));
        assert!(board.is_hasty() && !board.is_hasty(), "it is asked for at once, and once");
        press(&mut board, "jp\n");
        assert_eq!(board.take_pause(), Some(("b".into(), false)), "and one that is paused is resumed");
        press(&mut board, "3p");
        assert!(board.message.is_some() && board.mode == Mode::Look, "a task is no group");
    }

    #[test]
    fn enter_opens_the_selected_task_and_any_key_closes_it() {
        let mut board = board(vec![group("a", 1)]);
        press(&mut board, "\n");
        assert!(board.message.is_some() && board.open().is_none(), "a group is no task");
        let letter = |seq, task_id| pb::TaskResult { seq, task_id, group: "a".into(), ..Default::default() };
        press(&mut board, "4");
        board.looked(Look { dead: vec![letter(5, 17), letter(6, 18)], ..look(vec![group("a", 1)]) });
        press(&mut board, "j\n");
        assert_eq!((board.open(), board.is_hasty()), (Some(17), true), "the older one is below");
        press(&mut board, "\u{1b}");
        assert_eq!((board.open(), board.view), (None, View::Dead));
        press(&mut board, "py");
        assert_eq!(board.take_pause(), Some(("a".into(), true)), "the group of a dead letter");
        press(&mut board, "\n");
        assert_eq!(press(&mut board, "q"), Wish::Quit);
    }

    #[test]
    fn the_filter_is_typed_and_cleared() {
        let mut board = board(vec![group("mail", 1), group("thumbnails", 2), group("q", 3)]);
        assert_eq!(press(&mut board, "/MAq"), Wish::Nothing, "q is a letter here");
        board.key(KeyCode::Backspace.into());
        assert_eq!(names(&board), ["mail"]);
        press(&mut board, "\n");
        assert_eq!((names(&board).len(), &board.mode), (1, &Mode::Look));
        press(&mut board, "\u{1b}");
        assert_eq!(names(&board).len(), 3);
        assert_eq!(press(&mut board, "q"), Wish::Quit);
    }

    #[test]
    fn sorting_goes_round_for_each_view() {
        let mut board =
            board(vec![pb::Group { rate: 5.0, dead: 1, ..group("b", 1) }, pb::Group { dead: 2, ..group("a", 3) }]);
        let mut seen = vec![];
        for _ in 0..5 {
            seen.push((board.sorted_by(), names(&board)[0].clone()));
            press(&mut board, "s");
        }
        let expected = [("lag", "a"), ("name", "a"), ("rate", "b"), ("dead letters", "a"), ("lag", "a")];
        assert_eq!(seen, expected.map(|(by, first)| (by, first.to_owned())));
        press(&mut board, "2");
        assert_eq!((board.sorted_by(), board.is_hasty()), ("newest", true));
    }

    #[test]
    fn rates_are_what_the_server_counted_between_two_looks() {
        let at = |seconds: i64, results| {
            let server = pb::Server { now: NOW.0 + seconds * 1000, started_at: 1, results, ..Default::default() };
            Look { server: Some(server), ..look(vec![]) }
        };
        let mut board = Board::new("x");
        board.looked(at(0, 100));
        board.looked(at(2, 300));
        assert_eq!(board.rates, [Some(Rate { results: 100.0, tasks: 0.0 })]);
        board.lost(&Error::NoServer("x".into()));
        board.looked(at(60, 400));
        assert_eq!(board.rates.back(), Some(&None), "nothing is known of the time without contact");
        let mut other = at(61, 0);
        other.server.as_mut().unwrap().started_at = 2;
        board.looked(other);
        assert_eq!(board.rates.back(), Some(&None), "nor across a restart");
    }

    #[test]
    fn lost_contact_is_said_since_the_last_look_until_the_next() {
        let mut board = board(vec![group("a", 1)]);
        board.lost(&Error::NoServer("x".into()));
        board.lost(&Error::Interrupted);
        assert_eq!(board.trouble, Some((NOW, "interrupted".into())));
        assert_eq!(names(&board), ["a"], "what was seen stays");
        board.looked(look(vec![]));
        assert_eq!(board.trouble, None);
        board.lost(&Error::Refused("there is no group b".into()));
        assert_eq!((board.trouble.is_none(), board.message.as_deref()), (true, Some("there is no group b")));
    }
}
