//! `contactctl top`: the fleet, live.
//!
//! One thread waits for keys (`screen`); everything else is one loop of futures on the main thread. It asks the server
//! (`look`), hands what it learns and what was typed to the `board`, and has it drawn (`frame`).

mod board;
mod frame;
mod look;
mod screen;

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use console::Term;
use futures::executor::block_on;
use futures::future::{Fuse, FusedFuture, LocalBoxFuture};
use futures::{FutureExt, StreamExt, select};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use self::board::{Board, Wish};
use self::frame::{Frame, Theme};
use self::look::{Look, View};
use self::screen::{Input, Screen};
use super::interrupt::Interrupt;
use super::link::{Link, To};
use super::out::Out;
use super::{Error, args};
use crate::task::Time;
use crate::wire::control as pb;

/// How wide a frame is that is not for a terminal...
const WIDTH: u16 = 120;
/// ...and how many groups it shows at most.
const ROWS: usize = 1000;
/// The share of the time that is spent looking, as its inverse: a server that answers slowly is asked less often.
const SHARE: u32 = 5;

/// Shows the fleet until `q`, or once.
pub(super) fn run(top: &args::Top, to: To<'_>, out: Out) -> Result<(), Error> {
    if top.once {
        return once(to, out);
    }
    if out.json {
        return Err(Error::Usage("top draws for people: --json goes with --once".into()));
    }
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() || dumb {
        let instead = "use contactctl groups, contactctl clients, or contactctl top --once";
        return Err(Error::Usage(format!("top needs a terminal that it can draw on; {instead}")));
    }
    // What is wrong with the address is better said before the screen changes.
    let link = Link::connect(to)?;
    let interrupt = Interrupt::watch()?;
    // Nothing else may write on the screen.
    let level = log::max_level();
    log::set_max_level(log::LevelFilter::Off);
    let ended = Screen::open().map_err(Error::Output).and_then(|mut screen| {
        let live = Live { to, interval: top.interval, theme: Theme::of_environment() };
        block_on(live.run(&mut screen, link, interrupt))
    });
    log::set_max_level(level);
    ended
}

/// Prints one frame.
fn once(to: To<'_>, mut out: Out) -> Result<(), Error> {
    let link = Link::connect(to)?;
    let look = block_on(look::look(&link, View::Groups, None))?;
    if out.json {
        return Ok(out.object(&look.summary(), "")?);
    }
    let width = Term::stdout().size_checked().map_or(WIDTH, |(_, columns)| columns);
    let height = Frame::height_of(&look, ROWS);
    let mut board = Board::new(to.address);
    board.looked(look);
    let mut buffer = Buffer::empty(Rect::new(0, 0, width, height));
    Frame { board: &board, theme: Theme::plain(), now: Time::now(), live: false }.draw(&mut buffer);
    for y in 0..buffer.area.height {
        out.text(frame::text(&buffer, y).trim_end())?;
    }
    Ok(out.flush()?)
}

struct Live<'a> {
    to: To<'a>,
    interval: Duration,
    theme: Theme,
}

/// What a look came to, and the connection, if there still is one.
type Asked = (Option<Link>, Result<Look, Error>);

impl Live<'_> {
    async fn run(&self, screen: &mut Screen, link: Link, interrupt: Interrupt) -> Result<(), Error> {
        let mut board = Board::new(self.to.address);
        let mut interrupt = interrupt.fuse();
        let mut link = Some(link);
        let mut began = Instant::now();
        let mut due = began;
        let mut asking: Fuse<LocalBoxFuture<'_, Asked>> = Fuse::terminated();
        loop {
            if asking.is_terminated() && (Instant::now() >= due || board.is_hasty()) {
                began = Instant::now();
                board.asked(Time::now());
                asking = self.ask(link.take(), board.view, board.open(), board.take_pause()).boxed_local().fuse();
            }
            let frame = Frame { board: &board, theme: self.theme, now: Time::now(), live: true };
            screen.draw(|buffer| frame.draw(buffer))?;
            select! {
                input = screen.inputs.next() => match input {
                    Some(Input::Key(key)) => {
                        if board.key(key) == Wish::Quit {
                            return Ok(());
                        }
                    }
                    Some(Input::Tick) => {}
                    // The terminal is gone.
                    None => return Ok(()),
                },
                (connection, look) = asking => {
                    link = connection;
                    match look {
                        Ok(look) => {
                            due = began + self.interval.max(began.elapsed() * SHARE);
                            board.looked(look);
                        }
                        Err(e) => {
                            due = Instant::now() + self.interval;
                            board.lost(&e);
                        }
                    }
                }
                () = interrupt => return Ok(()),
            }
        }
    }

    /// Connects if need be, pauses or resumes a group if that was wished, and looks.
    async fn ask(&self, link: Option<Link>, view: View, open: Option<u64>, pause: Option<(String, bool)>) -> Asked {
        let link = match link {
            Some(link) => link,
            None => match Link::open(self.to).await {
                Ok(link) => link,
                Err(e) => return (None, Err(e)),
            },
        };
        let asked = async {
            if let Some((group, paused)) = pause {
                let request = pb::PauseGroupRequest { group, paused, ..Default::default() };
                link.answer(link.client.pause_group(&request, look::soon())).await?;
            }
            look::look(&link, view, open).await
        };
        let look = asked.await;
        let lost = matches!(
            look,
            Err(Error::NoServer(_) | Error::NoName { .. } | Error::NoConnection { .. } | Error::WentAway { .. })
        );
        ((!lost).then_some(link), look)
    }
}
