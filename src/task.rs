//! The leaf types: tasks, outcomes, and the names of those who handle them.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attachment::Attachment;
use crate::labels::Selector;
use crate::retry::Retry;
use crate::terminal::is_hidden;

/// A task's position in the log, from 1.
pub type TaskId = u64;

/// What a task, a result or a status of so many bytes counts for while it waits in memory: these, and about what there is around them.
/// So there are not more of them for being short.
pub const fn weight(bytes: usize) -> usize {
    bytes + 128
}

/// How much is kept of the text of a result that came too late, in bytes: it changes nothing. Headers and data of it are not kept.
pub const LONGEST_LATE: usize = 4096;

/// Cuts a text to so many bytes, the sign that it was cut included.
pub fn cut(text: &mut String, most: usize) {
    const CUT: &str = "…";
    if text.len() > most {
        let end = (0..=most.saturating_sub(CUT.len())).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push_str(CUT);
        text.shrink_to_fit();
    }
}

/// A point in time: milliseconds since 1970-01-01 UTC.
///
/// The time of day: for moments that somebody named, that are stored, or shown. What lasts for a while is measured on
/// another clock: see `now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub i64);

impl Time {
    /// The time now.
    pub fn now() -> Time {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Time(since.map_or(0, |d| d.as_millis() as i64))
    }

    /// How long after `earlier` this is; zero, if it is before: a clock may be set back.
    pub fn since(self, earlier: Time) -> std::time::Duration {
        std::time::Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time and `duration` more.
    pub fn after(self, duration: std::time::Duration) -> Time {
        Time(self.0.saturating_add(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
    }
}

/// In RFC 3339, UTC, with milliseconds. What lies outside of the years 1970 to 9999 is shown as the nearest end of them.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LAST: i64 = 253_402_300_799_999;
        let since = std::time::Duration::from_millis(self.0.clamp(0, LAST).unsigned_abs());
        humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + since).fmt(f)
    }
}

/// How far work is, in thousandths of all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress(u16);

impl Progress {
    /// A part of one; what lies outside of 0 to 1 counts as the nearer end. `None`: it is no number.
    pub fn of(part: f32) -> Option<Progress> {
        (!part.is_nan()).then(|| Progress((part.clamp(0.0, 1.0) * 1000.0).round() as u16))
    }

    /// The part of one, with three digits.
    pub fn part(self) -> f32 {
        f32::from(self.0) / 1000.0
    }
}

/// In per cent, as in `40%`.
impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 / 10)
    }
}

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{of} must {rule}")]
pub struct NameError {
    /// What it was to be the name of.
    pub of: NameOf,
    /// What is wrong with it.
    pub rule: NameRule,
}

/// A rule that a name broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameRule {
    /// It is empty, or too long.
    #[error("be 1 to {max} bytes of UTF-8, and is {0}", max = Name::MAX)]
    Length(usize),
    /// It has a control character.
    #[error("have no control characters, and has {}", spelt(.0))]
    Control(char),
    /// Nobody sees this character, or sees a blank that is none.
    #[error("have characters that can be seen, and has {}", spelt(.0))]
    Unseen(char),
    /// It begins or ends with a blank.
    #[error("not begin or end with a blank")]
    Blank,
}

fn spelt(c: &char) -> String {
    format!("U+{:04X}", u32::from(*c))
}

/// What a name is the name of, as errors call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameOf {
    /// A group that may be there. What is there was named by whatever rule there was when it came.
    Group,
    /// The group that a task is for.
    To,
    /// A task's idempotency key. Programs choose it, and nobody joins by it.
    Key,
    /// What tasks have in common that take each other's place.
    Replace,
    /// A task's lane. Programs choose it, too.
    Lane,
    /// A lane as it is kept, which may be that of a key: see [`Replace`].
    KeptLane,
    /// A schedule.
    Schedule,
    /// A client, or the group it is in.
    ClientOrGroup,
    /// What a key of a call's metadata says, where the key is named beside the error.
    Metadata,
}

impl NameOf {
    /// Whether everybody has to be able to read it, and to type it again.
    fn is_read(self) -> bool {
        match self {
            NameOf::Group | NameOf::Key | NameOf::Replace | NameOf::Lane | NameOf::KeptLane => false,
            NameOf::To | NameOf::Schedule | NameOf::ClientOrGroup | NameOf::Metadata => true,
        }
    }
}

impl fmt::Display for NameOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameOf::Group => "the group",
            NameOf::To => "the group in `to`",
            NameOf::Key => "the key",
            NameOf::Replace => "the key in `replace`",
            NameOf::Lane | NameOf::KeptLane => "the lane",
            NameOf::Schedule => "the name of a schedule",
            NameOf::ClientOrGroup => "an id or a group",
            NameOf::Metadata => "it",
        })
    }
}

/// The name of a client or of a group: 1 to 256 bytes of characters that can be seen, without blanks at the ends. Cheap to clone.
///
/// One that was kept by an earlier version may have blanks at its ends, and characters that cannot be seen, but no control
/// characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

/// The name of a group of clients.
pub type GroupName = Name;
/// The stable id of a client.
pub type ClientId = Name;

impl Name {
    /// The longest name, in bytes.
    pub const MAX: usize = 256;

    /// Checks a name; the error says what it was to be the name of.
    pub fn new(of: NameOf, name: &str) -> Result<Name, NameError> {
        if let (NameOf::KeptLane, Some(key)) = (of, name.strip_prefix(Replace::MARK)) {
            return Replace::lane_of(key);
        }
        // What nearly all are, told at a glance: one is checked for each task that is accepted.
        let plain = name.bytes().all(|byte| byte.is_ascii_graphic());
        let rule = if name.is_empty() || name.len() > Name::MAX {
            NameRule::Length(name.len())
        } else if plain {
            return Ok(Name(name.into()));
        } else if let Some(control) = name.chars().find(|c| c.is_control()) {
            NameRule::Control(control)
        } else if !of.is_read() {
            return Ok(Name(name.into()));
        } else if name.trim() != name {
            NameRule::Blank
        } else if let Some(unseen) = name.chars().find(|c| is_unseen(*c)) {
            NameRule::Unseen(unseen)
        } else {
            return Ok(Name(name.into()));
        };
        Err(NameError { of, rule })
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, shared.
    pub fn shared(&self) -> Arc<str> {
        self.0.clone()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether nobody sees the character in a text, or sees a blank that is no space: two names that look alike would be two groups.
pub(crate) fn is_unseen(c: char) -> bool {
    // What the standard library would not print, behind a letter: there a combining mark is printed.
    let printed = ['a', c].iter().collect::<String>().escape_debug().nth(1);
    let escaped = printed == Some('\\') && !matches!(c, '\\' | '\'' | '"');
    // What it would print though fonts leave it out: joiners, fillers, variation selectors, and the blank of Braille.
    escaped
        || is_hidden(c)
        || matches!(c, '\u{34f}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}')
        || matches!(c, '\u{200b}'..='\u{200d}' | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}')
        || matches!(c, '\u{e0100}'..='\u{e01ef}')
}

/// Where a group that is new to the server starts to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum StartAt {
    /// At the oldest task that is kept.
    First,
    /// At the next one that is accepted.
    New,
}

impl StartAt {
    /// As it stands in metadata and on command lines.
    pub fn as_str(self) -> &'static str {
        match self {
            StartAt::First => "first",
            StartAt::New => "new",
        }
    }

    /// What a word of [`StartAt::as_str`] stands for.
    pub fn of(word: &str) -> Option<StartAt> {
        [StartAt::First, StartAt::New].into_iter().find(|from| from.as_str() == word)
    }
}

/// Which tasks of a group go first. Within a priority, the oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all normal ones.
    High,
    /// What tasks have unless they say otherwise.
    #[default]
    Normal,
    /// After all normal ones.
    Low,
}

impl Priority {
    /// All of them, in the order in which tasks go out. `priority as usize` is its place here.
    pub const ALL: [Priority; 3] = [Priority::High, Priority::Normal, Priority::Low];
}

/// A task that is to be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewTask {
    /// What to do.
    pub text: String,
    /// Headers and data beside it. With data, the text may be empty.
    pub attachment: Attachment,
    /// The group it is for; `None`: every group, unless `audience` says which.
    pub to: Option<GroupName>,
    /// Of a broadcast: which groups it is for. `None`: all.
    pub audience: Option<Arc<Audience>>,
    /// Idempotency key.
    pub key: Option<String>,
    /// Not to be delivered before.
    pub not_before: Option<Time>,
    /// Not to be delivered after. Before 1970: it was cancelled, as long after 1970: see [`NewTask::cancelled_at`].
    pub expires_at: Option<Time>,
    /// Attempts that a group may spend on it before it is given up; `None`: as the server is set.
    pub max_attempts: Option<u32>,
    /// How long it waits before it goes out again; `None`: as the server is set.
    pub retry: Option<Box<Retry>>,
    /// Which tasks it goes before.
    pub priority: Priority,
    /// Who asked for it, where callers have to say who they are.
    pub by: Option<Arc<Submitter>>,
    /// How long work on it may take; `None`: as long as it takes. Its client sees to it.
    pub time_limit: Option<TimeLimit>,
    /// It takes the place of the one before it; `None`: of none.
    pub replace: Option<Box<Replace>>,
    /// What it has to do with, as a tenant or a file: of the tasks of one lane, a group has only so many under way at a time.
    pub lane: Option<Name>,
    /// Which schedule made it, if one did.
    pub made: Option<Arc<Made>>,
}

/// Which schedule made a task, and for which moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Made {
    /// Its name.
    pub schedule: Name,
    /// The moment. `None`: somebody had it made between the moments.
    pub moment: Option<Time>,
}

/// That a task takes the place of the newest one with the same key and the same address, where that has not begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replace {
    /// Only one task with the key is with a client of a group at a time: it is a lane of one, of this name.
    lane: Name,
    /// It waits until nothing newer has come for a while.
    pub quiet: Option<Quiet>,
    /// The task whose place it took, known when it is accepted. `None`: there was none, or that was over.
    pub replaces: Option<TaskId>,
    /// The task that took its own place. Then [`expires_at`](NewTask::expires_at) says when, as of a cancelled one.
    pub by: Option<TaskId>,
}

impl Replace {
    /// No lane that somebody names begins with it.
    const MARK: char = '\u{1}';

    /// By this key, and nothing taken yet.
    pub fn new(key: &str, quiet: Option<Quiet>) -> Result<Replace, NameError> {
        Ok(Replace { lane: Replace::lane_of(key)?, quiet, replaces: None, by: None })
    }

    /// The same, when it took the place of that task, and that task its own.
    pub fn taken(self, replaces: Option<TaskId>, by: Option<TaskId>) -> Replace {
        Replace { replaces, by, ..self }
    }

    fn lane_of(key: &str) -> Result<Name, NameError> {
        let key = Name::new(NameOf::Replace, key)?;
        Ok(Name(format!("{}{key}", Replace::MARK).into()))
    }

    /// What the tasks have in common, beside the groups that they are for.
    pub fn key(&self) -> &str {
        Replace::key_of(&self.lane).unwrap_or_default()
    }

    /// See [`NewTask::waits_in`].
    pub fn lane(&self) -> &Name {
        &self.lane
    }

    /// The key whose lane that is; `None`: somebody named it.
    pub fn key_of(lane: &Name) -> Option<&str> {
        lane.as_str().strip_prefix(Replace::MARK)
    }

    /// What it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        size_of::<Replace>() + self.lane.as_str().len()
    }
}

/// For how long nothing newer is to come before a task is given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quiet {
    /// For so many milliseconds.
    pub millis: u64,
    /// But so many after the first of those that came one after another; `None`: however long they come.
    pub most_millis: Option<u64>,
    /// When that first one was accepted, known when this is.
    pub since: Time,
}

impl Quiet {
    /// When a task may be given out that was accepted at that time.
    pub fn until(self, accepted_at: Time) -> Time {
        let after = |time: Time, millis| time.after(std::time::Duration::from_millis(millis));
        let until = after(accepted_at, self.millis);
        self.most_millis.map_or(until, |most| until.min(after(self.since, most)))
    }
}

/// How long work on a task may take, from when it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeLimit {
    /// In milliseconds.
    pub millis: NonZeroU32,
    /// What comes of it then is [`Outcome::Failed`], and not [`Outcome::Retry`].
    pub fails: bool,
}

/// For which groups a broadcast is. For the others it is settled when they come to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Audience {
    /// These, by name: at least two, each once.
    Groups(Vec<GroupName>),
    /// Those whose labels match when they come to it.
    Matching(Selector),
}

impl Audience {
    /// Most groups that one task names.
    pub const MOST_GROUPS: usize = 1_000;

    /// These groups, if there are several.
    pub fn groups(mut names: Vec<GroupName>) -> Audience {
        names.sort_unstable();
        names.dedup();
        Audience::Groups(names)
    }

    /// Whether a group may be meant, whatever its labels. `None`: that of one anonymous client.
    pub fn may_be(&self, group: Option<&GroupName>) -> bool {
        match self {
            Audience::Groups(names) => group.is_some_and(|group| names.binary_search(group).is_ok()),
            Audience::Matching(_) => true,
        }
    }

    /// About what it takes in memory, in bytes.
    pub fn size(&self) -> usize {
        match self {
            Audience::Groups(names) => names.iter().map(|name| name.as_str().len() + 48).sum(),
            Audience::Matching(selector) => selector.size(),
        }
    }
}

/// Who submitted a task.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Submitter {
    /// As its certificate or its token calls it.
    pub name: String,
    /// What it is let in for: `submit` or `operator`.
    pub role: String,
}

impl Task {
    /// The same without its text, headers and data.
    pub fn without_text(&self) -> Task {
        let NewTask {
            text: _,
            attachment: _,
            to,
            key,
            not_before,
            expires_at,
            max_attempts,
            retry,
            priority,
            by,
            audience,
            time_limit,
            replace,
            lane,
            made,
        } = &self.spec;
        let spec = NewTask {
            text: String::new(),
            attachment: Attachment::default(),
            to: to.clone(),
            key: key.clone(),
            not_before: *not_before,
            expires_at: *expires_at,
            max_attempts: *max_attempts,
            retry: retry.clone(),
            priority: *priority,
            by: by.clone(),
            audience: audience.clone(),
            time_limit: *time_limit,
            replace: replace.clone(),
            lane: lane.clone(),
            made: made.clone(),
        };
        Task { spec, ..*self }
    }
}

impl NewTask {
    /// What is to be done, in bytes: its text, headers and data.
    pub fn bytes(&self) -> usize {
        self.text.len() + self.attachment.bytes()
    }

    /// Whether there is something to do: no task is accepted without. One [without its text](Task::without_text) has neither.
    pub fn has_content(&self) -> bool {
        !self.text.is_empty() || !self.attachment.data().is_empty()
    }

    /// What it counts for while it waits in memory, in bytes; see [`weight`].
    pub fn weight(&self) -> usize {
        weight(self.bytes())
            + self.key.as_ref().map_or(0, String::len)
            + self.lane.as_ref().map_or(0, |lane| lane.as_str().len())
            + self.audience.as_ref().map_or(0, |audience| audience.size())
            + self.replace.as_ref().map_or(0, |replace| replace.size())
    }

    /// Whether it names this group. `None`: it names none, and is for all, or for those whose labels match.
    pub fn names(&self, group: &GroupName) -> Option<bool> {
        match (&self.to, self.audience.as_deref()) {
            (Some(to), _) => Some(to == group),
            (None, Some(Audience::Groups(names))) => Some(names.binary_search(group).is_ok()),
            (None, _) => None,
        }
    }

    /// The lane that it waits in: that which it names, or that of the key by which it replaces others.
    pub fn waits_in(&self) -> Option<&Name> {
        self.lane.as_ref().or_else(|| Some(&self.replace.as_ref()?.lane))
    }

    /// What stands in [`expires_at`](NewTask::expires_at) of a task that was cancelled at that time. So it is over for
    /// whoever looks at the expiry alone, and whoever wants to know can tell it from one that expired.
    pub fn cancelled(at: Time) -> Time {
        Time(-at.0.max(1))
    }

    /// When it was cancelled, if it was.
    pub fn cancelled_at(&self) -> Option<Time> {
        self.ended_at().filter(|_| self.replaced_by().is_none())
    }

    /// When it was cancelled, or replaced.
    fn ended_at(&self) -> Option<Time> {
        self.expires_at.filter(|at| at.0 < 0).map(|at| Time(at.0.saturating_neg()))
    }

    /// When it is over, or was: it expires then, or was cancelled or replaced.
    pub fn over_at(&self) -> Option<Time> {
        self.ended_at().or(self.expires_at)
    }

    /// The task that took its place, wherever it had not begun.
    pub fn replaced_by(&self) -> Option<TaskId> {
        self.replace.as_ref()?.by
    }

    /// The task whose place it took.
    pub fn replaces(&self) -> Option<TaskId> {
        self.replace.as_ref()?.replaces
    }

    /// That task took its place then. It has a key to be replaced by, or nothing could have.
    pub fn set_replaced(&mut self, by: TaskId, at: Time) {
        if let Some(replace) = &mut self.replace {
            replace.by = Some(by);
            self.expires_at = Some(NewTask::cancelled(at));
        }
    }

    /// What came of it, if it is over for groups that have not settled it.
    pub fn over(&self, now: Time) -> Option<Outcome> {
        let over = self.expires_at.is_some_and(|at| at <= now);
        let outcome = match (self.replaced_by(), self.cancelled_at()) {
            (Some(_), _) => Outcome::Replaced,
            (None, Some(_)) => Outcome::Cancelled,
            (None, None) => Outcome::Expired,
        };
        over.then_some(outcome)
    }
}

/// A task as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its position in the log.
    pub id: TaskId,
    /// When it was accepted.
    pub accepted_at: Time,
    /// What was asked for.
    pub spec: NewTask,
}

/// What came of a delivery, as the log keeps it. The numbers are those of the store and of `proto/control.proto`: never reuse
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum Outcome {
    /// Finished.
    Done = 0,
    /// To be tried again.
    Retry = 1,
    /// Given up by the client.
    Failed = 2,
    /// Still at it. Renews a lease; never in the log.
    Working = 3,
    /// The client's stream ended before it said what came of the task.
    Lost = 4,
    /// The lease ended before it said what came of the task.
    TimedOut = 5,
    /// The attempts were used up.
    Exhausted = 6,
    /// The task's time was over before it was settled.
    Expired = 7,
    /// Taken back by an operator.
    Cancelled = 8,
    /// Given to the group again by an operator.
    Revived = 9,
    /// A dead letter that an operator took off the list. Changes nothing else.
    Dropped = 10,
    /// Given back unbegun: by its client, or because that went before it said anything of the task.
    Released = 11,
    /// Not for this group: its labels did not match when it came to the task.
    NotSelected = 12,
    /// Another task took its place before it began.
    Replaced = 13,
}

/// The name of the value in `proto/control.proto`, which is its name in JSON, too.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

impl Outcome {
    /// All of them, each at its number.
    pub const ALL: [Outcome; 14] = [
        Outcome::Done,
        Outcome::Retry,
        Outcome::Failed,
        Outcome::Working,
        Outcome::Lost,
        Outcome::TimedOut,
        Outcome::Exhausted,
        Outcome::Expired,
        Outcome::Cancelled,
        Outcome::Revived,
        Outcome::Dropped,
        Outcome::Released,
        Outcome::NotSelected,
        Outcome::Replaced,
    ];

    /// The outcome with that number.
    pub fn from_number(number: i64) -> Option<Outcome> {
        usize::try_from(number).ok().and_then(|n| Outcome::ALL.get(n).copied())
    }

    /// Whether the group is through with the task.
    pub fn settles(self) -> bool {
        use Outcome::*;
        matches!(self, Done | Failed | Exhausted | Expired | Cancelled | NotSelected | Replaced)
    }

    /// Whether the task was given up.
    pub fn is_dead(self) -> bool {
        matches!(self, Outcome::Failed | Outcome::Exhausted)
    }
}

/// An outcome that is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewResult {
    /// The task.
    pub task: TaskId,
    /// For which group; `None`: an anonymous client.
    pub group: Option<GroupName>,
    /// From which client: its id, or its address.
    pub client: Arc<str>,
    /// Which delivery of the task to this group, from 1.
    pub attempt: u32,
    /// What came of it.
    pub outcome: Outcome,
    /// What the client said.
    pub ret: String,
    /// Headers and data beside it.
    pub attachment: Attachment,
    /// When.
    pub at: Time,
    /// With [`Outcome::Retry`]: not to be delivered again before.
    pub not_before: Option<Time>,
    /// It changed nothing: the task was settled already, or the attempt was over.
    pub late: bool,
}

impl NewResult {
    /// What the client said, in bytes: text, headers and data.
    pub fn bytes(&self) -> usize {
        self.ret.len() + self.attachment.bytes()
    }

    /// Without what the client said.
    pub fn say_nothing(&mut self) {
        (self.ret, self.attachment) = Default::default();
    }

    /// It changes nothing: little is kept of it.
    pub fn mark_late(&mut self) {
        self.late = true;
        self.attachment = Attachment::default();
        cut(&mut self.ret, LONGEST_LATE);
    }

    /// Whether a dead letter comes or goes with it: the task was given up, or an operator gave it out again or dropped it.
    pub fn moves_dead_letter(&self) -> bool {
        !self.late && (self.outcome.is_dead() || matches!(self.outcome, Outcome::Revived | Outcome::Dropped))
    }
}

/// An outcome as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskResult {
    /// Its position in the log, from 1.
    pub seq: u64,
    /// What was written down.
    pub result: NewResult,
}

/// A report that is to be written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewStatus {
    /// The client's id, or its address.
    pub client: Arc<str>,
    /// What it said.
    pub msg: String,
    /// When.
    pub at: Time,
}

/// A report as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Its position in the log, from 1.
    pub seq: u64,
    /// What was written down.
    pub status: NewStatus,
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: [NameOf; 3] = [NameOf::To, NameOf::ClientOrGroup, NameOf::Metadata];

    #[test]
    fn a_name_may_be_of_any_characters_that_can_be_seen() {
        let longest = "工".repeat(85);
        for name in
            ["workers", "工人", "a b", "50%", "a,b", "é", "e\u{301}", "ครู", "नमस्ते", "workers 🚀", "'\"\\", &longest]
        {
            for of in READ {
                assert_eq!(Name::new(of, name).map(|name| name.to_string()).as_deref(), Ok(name));
            }
        }
    }

    #[test]
    fn a_name_that_nobody_could_type_again_is_refused_with_what_is_wrong() {
        let too_long = "工".repeat(86);
        let unseen = "\u{a0} \u{ad} \u{200b} \u{200d} \u{202e} \u{2066} \u{2028} \u{feff} \u{3000} \u{fe0f} \u{2800} \u{3164} \u{e0001}";
        for of in READ {
            let rule = |name: &str| Name::new(of, name).map_err(|error| error.rule);
            assert_eq!(rule(""), Err(NameRule::Length(0)));
            assert_eq!(rule(&too_long), Err(NameRule::Length(258)));
            for blank in [" ", "  ", "workers ", " workers", "\u{3000}工人", "工人\u{3000}"] {
                assert_eq!(rule(blank), Err(NameRule::Blank), "{blank:?}");
            }
            for control in ['\0', '\t', '\n', '\r', '\u{1b}', '\u{7f}', '\u{85}', '\u{9b}'] {
                assert_eq!(rule(&format!("a{control}b")), Err(NameRule::Control(control)));
            }
            for unseen in unseen.split(' ').filter_map(|c| c.chars().next()) {
                assert_eq!(rule(&format!("a{unseen}b")), Err(NameRule::Unseen(unseen)));
            }
        }
        let said = Name::new(NameOf::To, "wor\u{200b}kers").map_err(|error| error.to_string());
        assert_eq!(said, Err("the group in `to` must have characters that can be seen, and has U+200B".into()));
    }

    #[test]
    fn a_name_has_no_character_that_is_hidden_on_a_terminal() {
        let taken: Vec<char> = ('\0'..=char::MAX)
            .filter(|c| {
                is_hidden(*c)
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
            })
            .filter(|c| READ.into_iter().any(|of| Name::new(of, &format!("a{c}b")).is_ok()))
            .collect();
        assert!(taken.is_empty(), "{taken:?}");
    }

    #[test]
    fn names_that_were_kept_by_earlier_rules_are_read() {
        for name in ["workers ", " ", "a\u{200b}b"] {
            assert!(Name::new(NameOf::Group, name).is_ok(), "{name:?}");
        }
        assert!(Name::new(NameOf::Group, "a\nb").is_err());
    }

    #[cfg(feature = "server")]
    #[test]
    fn any_bytes_are_a_name_or_are_refused_in_a_sentence() {
        crate::fuzz::any_text(&["workers", "工人", "web-1/worker 3", "e\u{301}"], 4096, |text| {
            for of in READ.into_iter().chain([NameOf::Group, NameOf::Key, NameOf::Replace]) {
                match Name::new(of, text) {
                    Err(why) => assert!(why.to_string().len() <= 256, "{why}"),
                    Ok(name) => {
                        assert!(name.as_str() == text && (1..=Name::MAX).contains(&text.len()));
                        assert!(!text.contains(char::is_control), "{text:?}");
                    }
                }
            }
        });
    }
}
