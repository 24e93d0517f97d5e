//! The terminal: raw while it is open, and as it was before in any case; and what is typed on it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use futures::SinkExt;
use futures::channel::mpsc;
use futures::executor::block_on;
use ratatui::DefaultTerminal;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};

/// How long at most until the screen changes by itself, or the thread that waits for keys sees that it is over.
const TICK: Duration = Duration::from_millis(100);

/// What happened.
pub(super) enum Input {
    Key(KeyEvent),
    /// Time went by, or the terminal has another size.
    Tick,
}

/// The terminal. Dropped, it is as it was before.
pub(super) struct Screen {
    terminal: DefaultTerminal,
    /// Ends when the terminal is gone.
    pub(super) inputs: mpsc::Receiver<Input>,
    over: Arc<AtomicBool>,
    keys: Option<JoinHandle<()>>,
}

impl Screen {
    /// Takes the terminal. A panic gives it back first, and then says what happened.
    pub(super) fn open() -> io::Result<Screen> {
        let terminal = ratatui::try_init()?;
        // Nobody types faster than this is emptied; what does not fit waits in the terminal.
        let (tell, inputs) = mpsc::channel(1);
        let over = Arc::new(AtomicBool::new(false));
        let mut screen = Screen { terminal, inputs, over: over.clone(), keys: None };
        screen.keys = Some(thread::Builder::new().name("keys".into()).spawn(move || wait_for_keys(tell, &over))?);
        Ok(screen)
    }

    /// Draws a whole frame; what differs from the last one is written.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        self.terminal.draw(|frame| draw(frame.buffer_mut()))?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.inputs.close();
        if let Some(keys) = self.keys.take() {
            let _ = keys.join();
        }
        // After a panic it was given back before the message; a second time would put the cursor back above that.
        if !thread::panicking() {
            ratatui::restore();
        }
    }
}

fn wait_for_keys(mut tell: mpsc::Sender<Input>, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        let input = match event::poll(TICK) {
            Ok(true) => match event::read() {
                Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => Input::Key(key),
                Ok(_) => Input::Tick,
                Err(_) => return,
            },
            Ok(false) => Input::Tick,
            Err(_) => return,
        };
        if block_on(tell.send(input)).is_err() {
            return;
        }
    }
}
