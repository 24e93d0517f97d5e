//! The lines of any input. Memory is a buffer and a line, whatever the size of the input.

use std::io::{self, BufRead, BufReader, Read};

/// The longest line that is sent, in bytes: with what goes with it, it fits in a request of 16 MiB.
pub(super) const LONGEST: usize = 14 << 20;
/// What one read asks for.
const BUFFER: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// One line of the input, without its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    Task(String),
    Empty,
    /// It cannot be a task, and why.
    Bad(String),
    /// No line: there is none for the moment, and the next one may be long in coming.
    Lull,
}

/// All of an input as one task, as it stands.
pub(super) fn whole(input: impl Read) -> io::Result<(Line, u64)> {
    let mut text = Vec::new();
    let length = input.take(LONGEST as u64 + 1).read_to_end(&mut text)?;
    let line = if length == 0 { Line::Bad("it is empty".into()) } else { judge(text) };
    Ok((line, length as u64))
}

/// Reads lines, each with the number of bytes that it took up.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    /// Say when there is a lull: someone may be typing.
    live: bool,
    lull_said: bool,
    at_start: bool,
}

impl<R: Read> Lines<R> {
    pub(super) fn new(input: R, live: bool) -> Self {
        Lines { input: BufReader::with_capacity(BUFFER, input), live, lull_said: false, at_start: true }
    }

    fn read(&mut self) -> io::Result<Option<(Line, u64)>> {
        if self.live && !self.lull_said && !self.input.buffer().contains(&b'\n') {
            self.lull_said = true;
            return Ok(Some((Line::Lull, 0)));
        }
        self.lull_said = false;
        let mut line = Vec::new();
        // Room for the longest line and its end.
        let mut taken = (&mut self.input).take(LONGEST as u64 + 2).read_until(b'\n', &mut line)?;
        if taken == 0 {
            return Ok(None);
        }
        if line.ends_with(b"\n") {
            line.truncate(line.len() - if line.ends_with(b"\r\n") { 2 } else { 1 });
        } else if line.len() > LONGEST {
            taken += self.input.skip_until(b'\n')?;
        }
        if std::mem::take(&mut self.at_start) && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(Some((judge(line), taken as u64)))
    }
}

fn judge(line: Vec<u8>) -> Line {
    if line.is_empty() {
        return Line::Empty;
    }
    if line.len() > LONGEST {
        return Line::Bad(format!("longer than {} MiB", LONGEST >> 20));
    }
    match String::from_utf8(line) {
        Ok(text) => Line::Task(text),
        Err(e) => Line::Bad(format!("not UTF-8, from byte {} on", e.utf8_error().valid_up_to() + 1)),
    }
}

impl<R: Read> Iterator for Lines<R> {
    type Item = io::Result<(Line, u64)>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(input: &[u8], live: bool) -> Vec<Line> {
        Lines::new(input, live).map(|line| line.unwrap().0).collect()
    }

    fn task(text: &str) -> Line {
        Line::Task(text.into())
    }

    #[test]
    fn lines_end_with_lf_or_crlf_and_the_last_may_lack_its_end() {
        assert_eq!(
            lines(b"a\nb\r\n\n\r\n c \nd", false),
            [task("a"), task("b"), Line::Empty, Line::Empty, task(" c "), task("d")]
        );
        assert_eq!(lines(b"", false), []);
    }

    #[test]
    fn a_byte_order_mark_is_skipped_at_the_beginning_only() {
        let input = "\u{feff}a\n\u{feff}b\n";
        assert_eq!(lines(input.as_bytes(), false), [task("a"), task("\u{feff}b")]);
    }

    #[test]
    fn a_line_that_is_not_utf_8_says_from_where() {
        assert_eq!(
            lines(b"ok\nab\xff\nok", false),
            [task("ok"), Line::Bad("not UTF-8, from byte 3 on".into()), task("ok")]
        );
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_to_its_end() {
        let mut input = vec![b'x'; LONGEST];
        input.extend(b"\r\nb\n");
        input.extend(vec![b'x'; LONGEST + 1]);
        input.extend(b"\nc\n");
        input.extend(vec![b'x'; 2 * LONGEST]);
        input.extend(b"\nd");
        let all = lines(&input, false);
        let short: Vec<_> = all.iter().skip(1).collect();
        let long = Line::Bad("longer than 14 MiB".into());
        assert_eq!(short, [&task("b"), &long, &task("c"), &long, &task("d")]);
        assert!(matches!(&all[0], Line::Task(text) if text.len() == LONGEST));
    }

    #[test]
    fn a_live_input_says_when_nothing_more_is_there_yet() {
        assert_eq!(lines(b"a\nb\n", true), [Line::Lull, task("a"), task("b"), Line::Lull]);
    }

    #[test]
    fn the_bytes_of_the_lines_add_up_to_the_input() {
        let input = b"\xef\xbb\xbfa\r\n\n\xff\nb";
        let sum: u64 = Lines::new(&input[..], true).map(|line| line.unwrap().1).sum();
        assert_eq!(sum, input.len() as u64);
    }
}
