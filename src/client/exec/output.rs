//! What a command prints, without its middle where it is long.

use std::collections::VecDeque;

/// Where something is missing, between the beginning and the end. The number is of bytes, what is shown included.
fn cut(total: u64) -> String {
    format!("\n[cut: {total} bytes in all]\n")
}

/// The beginning and the end of what was printed: all of it, if it is no longer than `keep`.
#[derive(Debug)]
pub(super) struct Output {
    keep: usize,
    first: Vec<u8>,
    /// The end of what came after `first`, at most half as long.
    last: VecDeque<u8>,
    total: u64,
}

impl Output {
    pub(super) fn new(keep: usize) -> Output {
        Output { keep, first: Vec::new(), last: VecDeque::new(), total: 0 }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.keep.saturating_sub(self.first.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.first.extend_from_slice(first);
        let most = self.keep.div_ceil(2);
        let rest = &rest[rest.len().saturating_sub(most)..];
        self.last.drain(..(self.last.len() + rest.len()).saturating_sub(most));
        self.last.extend(rest);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// How many bytes were printed.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.total).unwrap_or(usize::MAX)
    }

    /// The first line that says something.
    pub(super) fn first_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.first);
        let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
        let end = line.char_indices().nth(200).map_or(line.len(), |(at, _)| at);
        Some(line[..end].to_owned())
    }

    /// At most `most` bytes, and a note where others are missing. It is cut between characters; bytes that are no UTF-8 are replaced
    /// by U+FFFD.
    pub(super) fn text(&self, most: usize) -> String {
        let mut all = self.first.clone();
        all.extend(&self.last);
        if self.total == all.len() as u64 {
            let text = String::from_utf8_lossy(&all);
            if text.len() <= most {
                return text.into_owned();
            }
        }
        let half = most / 2;
        let head = String::from_utf8_lossy(&self.first);
        let end = (0..=half.min(head.len())).rev().find(|at| head.is_char_boundary(*at)).unwrap_or(0);
        // It may begin within a character.
        let tail = &all[all.len().saturating_sub(half)..];
        let inside = tail.iter().take(3).take_while(|byte| (0x80..0xc0).contains(*byte)).count();
        let tail = String::from_utf8_lossy(&tail[inside..]);
        let begin = (tail.len().saturating_sub(half)..).find(|at| tail.is_char_boundary(*at)).unwrap_or(tail.len());
        let (head, tail) = (&head[..end], &tail[begin..]);
        format!("{head}{}{tail}", cut(self.total))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(keep: usize, parts: &[&[u8]]) -> Output {
        let mut output = Output::new(keep);
        parts.iter().for_each(|part| output.push(part));
        output
    }

    #[test]
    fn what_is_short_is_whole_and_what_is_long_has_its_beginning_and_its_end() {
        assert_eq!(output(10, &[b"01234", b"56789"]).text(10), "0123456789");
        assert_eq!(output(10, &[b"01234", b"56789", b"a"]).text(10), "01234\n[cut: 11 bytes in all]\n6789a");
        assert_eq!(output(10, &[b"0123456789"]).text(4), "01\n[cut: 10 bytes in all]\n89");
        // However it comes in parts.
        let all: Vec<u8> = (0..100_000).map(|n| b'a' + (n % 23) as u8).collect();
        for size in [1, 7, 1000, 100_000] {
            let output = output(1000, &all.chunks(size).collect::<Vec<_>>());
            let (head, tail) = (&all[..500], &all[all.len() - 500..]);
            let expected = [head, b"\n[cut: 100000 bytes in all]\n", tail].concat();
            assert_eq!(output.text(1000).as_bytes(), expected, "in parts of {size}");
            assert!(output.first.len() + output.last.len() <= 1500);
        }
    }

    #[test]
    fn it_is_cut_between_characters() {
        let text = "任务任务任务".as_bytes();
        assert_eq!(output(10, &[text]).text(10), "任\n[cut: 18 bytes in all]\n务");
        assert_eq!(output(18, &[text]).text(18), "任务任务任务");
        assert_eq!(output(18, &[b"a\xffb"]).text(18), "a\u{fffd}b");
        assert_eq!(output(0, &[text]).text(0), "\n[cut: 18 bytes in all]\n");
        // What is replaced is longer than it was.
        assert!(output(100, &[&[0xff; 100]]).text(100).len() <= 100 + 30);
    }

    #[test]
    fn the_first_line_is_the_first_that_says_something() {
        assert_eq!(output(100, &[b"\n  \n boom: no\nmore"]).first_line().as_deref(), Some("boom: no"));
        assert_eq!(output(100, &[b" \n"]).first_line(), None);
    }
}
