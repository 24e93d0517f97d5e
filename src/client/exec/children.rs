//! The commands that run, as processes: who ends them when this process is killed, and who waits for what they leave behind.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use process_wrap::std::{ChildWrapper, CommandWrap, ProcessSession};

/// Ends the commands when this process is gone, however it went: then its standard input ends. Each line is `+` or `-` and the process
/// group of a command that began or ended. It heeds no signal that is meant for this process.
///
/// The kernel's own death signal would do less: it reaches the shell, and not what the shell has started.
const GUARD: &str = r#"
trap '' HUP INT QUIT TERM
running=' '
while read -r sign group; do
    case $sign in
        +) running="$running$group " ;;
        -) running="${running%% $group *} ${running#* $group }" ;;
    esac
done
for group in $running; do
    kill -s KILL -- "-$group"
done"#;

/// The processes that an [`Exec`](super::Exec) has started and not waited for yet.
#[derive(Debug, Default)]
pub(super) struct Children(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    guard: Option<Guard>,
    /// The process groups of commands, which are the process ids of their shells.
    running: BTreeSet<u32>,
}

#[derive(Debug)]
struct Guard {
    process: Box<dyn ChildWrapper>,
    to: Option<ChildStdin>,
}

impl Children {
    /// Starts a command in a session of its own, so that it has no terminal. The guard knows of it when this returns.
    pub(super) fn spawn(&self, command: Command) -> io::Result<Box<dyn ChildWrapper>> {
        // Locked until it is known: what is not known is reaped.
        let mut state = self.lock();
        let mut child = in_own_session(command)?;
        state.running.insert(child.id());
        if let Err(error) = state.announce(child.id()) {
            let _ = child.start_kill();
            let _ = child.wait();
            state.running.remove(&child.id());
            return Err(error);
        }
        Ok(child)
    }

    /// Waits for a command that has exited.
    pub(super) fn reap(&self, mut child: Box<dyn ChildWrapper>) -> io::Result<ExitStatus> {
        let mut state = self.lock();
        // First, for as soon as it is waited for, its number may be another's.
        if let Some(guard) = &mut state.guard {
            let _ = guard.tell('-', child.id());
        }
        let status = child.wait();
        state.running.remove(&child.id());
        status
    }

    /// Waits for what commands left behind and this process has inherited, of which nobody else takes care.
    #[cfg(target_os = "linux")]
    fn reap_orphans(&self) {
        let state = self.lock();
        let guard = state.guard.as_ref().map(|guard| guard.process.id());
        for pid in zombies() {
            if !state.running.contains(&pid) && guard != Some(pid) {
                let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Tells the guard of a command. If there is none, or not any more, a new one hears of all.
    fn announce(&mut self, group: u32) -> io::Result<()> {
        if let Some(guard) = &mut self.guard {
            if guard.tell('+', group).is_ok() {
                return Ok(());
            }
            self.guard = None;
        }
        let mut guard = Guard::start()?;
        self.running.iter().try_for_each(|group| guard.tell('+', *group))?;
        self.guard = Some(guard);
        Ok(())
    }
}

impl Guard {
    fn start() -> io::Result<Guard> {
        let mut command = Command::new("sh");
        // It keeps no folder busy, and holds no output of this process open.
        command.args(["-c", GUARD, "contact-exec-guard"]).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = in_own_session(command)?;
        let to = process.stdin().take();
        Ok(Guard { process, to })
    }

    fn tell(&mut self, sign: char, group: u32) -> io::Result<()> {
        let to = self.to.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        to.write_all(format!("{sign} {group}\n").as_bytes())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.to = None;
        let _ = self.process.wait();
    }
}

/// How often it is looked for processes without a parent.
#[cfg(target_os = "linux")]
const REAP_EVERY: std::time::Duration = std::time::Duration::from_secs(1);

/// Has processes that lost their parent waited for, if this process is the one that inherits them: the first of a container, or one
/// that asked for it (PR_SET_CHILD_SUBREAPER).
#[cfg(target_os = "linux")]
pub(super) fn reap_what_is_inherited(children: &Arc<Children>) {
    let inherits = std::process::id() == 1 || rustix::process::child_subreaper().is_ok_and(|it| it.is_some());
    if !inherits {
        return;
    }
    let children = Arc::downgrade(children);
    let reaper = std::thread::Builder::new().name("exec-reaper".into()).spawn(move || {
        while let Some(children) = children.upgrade() {
            children.reap_orphans();
            drop(children);
            std::thread::sleep(REAP_EVERY);
        }
    });
    if let Err(error) = reaper {
        log::warn!("what commands leave behind stays as zombies: {error}");
    }
}

/// The children of this process that have exited and were not waited for.
#[cfg(target_os = "linux")]
fn zombies() -> Vec<u32> {
    let own = std::process::id().to_string();
    let is_zombie = |pid: &u32| {
        // proc_pid_stat(5): `pid (name) state ppid …`; the name may have anything in it.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ');
        fields.next() == Some("Z") && fields.next() == Some(own.as_str())
    };
    let Ok(all) = std::fs::read_dir("/proc") else { return Vec::new() };
    all.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_zombie).collect()
}

/// The plain child: the wrapper around it would wait for the whole group.
fn in_own_session(command: Command) -> io::Result<Box<dyn ChildWrapper>> {
    Ok(CommandWrap::from(command).wrap(ProcessSession).spawn()?.into_inner())
}
