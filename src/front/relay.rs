//! Passes bytes between two sockets, both ways.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// Read at once. A record of TLS is 16 KiB.
const CHUNK: usize = 32 * 1024;
/// Chunks one way, before others have their turn.
const TURNS: usize = 16;

thread_local! {
    /// What was just read, and is to be written at once. So a connection on which nothing happens has no buffer.
    static CHUNK_OF_THREAD: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into());
}

/// How it came to its end.
#[derive(Debug)]
pub(super) enum End<E> {
    /// The outer socket was closed, or failed.
    Outer(io::Result<()>),
    /// The inner one, after all it had written was passed on.
    Inner,
    /// What came from outside is not passed on.
    Refused(E),
}

/// One way.
#[derive(Default)]
struct Way {
    /// What was read and not taken yet.
    waiting: Vec<u8>,
    taken: usize,
    is_flushed: bool,
    /// Nothing more is read before it is over.
    pause: Option<Pin<Box<Sleep>>>,
}

enum Side<E> {
    From(io::Result<()>),
    To(io::Error),
    Refused(E),
}

/// Sees all that is passed on.
pub(super) trait Watch {
    type Refusal;

    /// What comes from outside. How long nothing more is to be read from there.
    fn inward(&mut self, bytes: &[u8]) -> Result<Duration, Self::Refusal>;

    /// What comes from inside, and may be changed.
    fn outward(&mut self, bytes: &mut [u8]);
}

/// Passes all on until one side ends. `began`: what has been read from outside already, and was seen.
pub(super) async fn relay<A, B, W>(outer: &mut A, inner: &mut B, began: Vec<u8>, watch: &mut W) -> End<W::Refusal>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
    W: Watch,
{
    let mut inward = Way { waiting: began, ..Way::default() };
    let mut outward = Way::default();
    poll_fn(|cx| {
        // Both ways, so that both are woken.
        let inward = inward.poll(cx, outer, inner, &mut |bytes| watch.inward(bytes));
        let outward = outward.poll(cx, inner, outer, &mut |bytes| {
            watch.outward(bytes);
            Ok(Duration::ZERO)
        });
        match (inward, outward) {
            (_, Poll::Ready(Side::From(_))) => Poll::Ready(End::Inner),
            (_, Poll::Ready(Side::To(error))) => Poll::Ready(End::Outer(Err(error))),
            (Poll::Ready(Side::From(ended)), _) => Poll::Ready(End::Outer(ended)),
            (Poll::Ready(Side::To(_)), _) => Poll::Ready(End::Inner),
            (Poll::Ready(Side::Refused(why)), _) | (_, Poll::Ready(Side::Refused(why))) => {
                Poll::Ready(End::Refused(why))
            }
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    })
    .await
}

impl Way {
    /// Passes on what there is. Ready when this way has come to its end.
    fn poll<E>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        look: &mut impl FnMut(&mut [u8]) -> Result<Duration, E>,
    ) -> Poll<Side<E>> {
        CHUNK_OF_THREAD.with_borrow_mut(|chunk| {
            for _ in 0..TURNS {
                while let Some(rest @ [_, ..]) = self.waiting.get(self.taken..) {
                    match ready!(Pin::new(&mut *to).poll_write(cx, rest)) {
                        Ok(0) => return Poll::Ready(Side::To(io::ErrorKind::WriteZero.into())),
                        Ok(written) => self.taken += written,
                        Err(error) => return Poll::Ready(Side::To(error)),
                    }
                }
                // Not only emptied: it would keep its memory.
                (self.waiting, self.taken) = (Vec::new(), 0);
                let mut read = ReadBuf::new(chunk);
                let pauses = self.pause.as_mut().is_some_and(|pause| pause.as_mut().poll(cx).is_pending());
                let came = if pauses {
                    Poll::Pending
                } else {
                    self.pause = None;
                    Pin::new(&mut *from).poll_read(cx, &mut read)
                };
                match came {
                    Poll::Ready(Ok(())) if read.filled().is_empty() => return Poll::Ready(Side::From(Ok(()))),
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(Side::From(Err(error))),
                    Poll::Pending => {
                        if !self.is_flushed {
                            match ready!(Pin::new(&mut *to).poll_flush(cx)) {
                                Ok(()) => self.is_flushed = true,
                                Err(error) => return Poll::Ready(Side::To(error)),
                            }
                        }
                        return Poll::Pending;
                    }
                }
                match look(read.filled_mut()) {
                    Ok(pause) => self.pause = (!pause.is_zero()).then(|| Box::pin(sleep(pause))),
                    Err(why) => return Poll::Ready(Side::Refused(why)),
                }
                let bytes = read.filled();
                self.is_flushed = false;
                let written = match Pin::new(&mut *to).poll_write(cx, bytes) {
                    Poll::Ready(Ok(written)) => written,
                    Poll::Ready(Err(error)) => return Poll::Ready(Side::To(error)),
                    Poll::Pending => 0,
                };
                self.waiting.extend_from_slice(&bytes[written..]);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }
}
