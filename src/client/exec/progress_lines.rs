//! How far a command says it is: lines of its standard error such as `::progress 0.4 resizing`.

/// How such a line begins.
const BEGIN: &[u8] = b"::progress ";
/// The longest such line, in bytes: twice what a server keeps of the words. A longer one is no such line.
const LONGEST: usize = 512;

/// Takes these lines out of what a command prints, and passes on the rest.
#[derive(Default)]
pub(super) struct ProgressLines {
    /// The beginning of a line that may become one of these.
    begun: Vec<u8>,
    /// The rest of this line is passed on.
    passing: bool,
}

impl ProgressLines {
    /// Goes through what was printed next. `say`: with each line, the part and the words; `pass`: with the rest.
    pub(super) fn take(&mut self, mut bytes: &[u8], mut pass: impl FnMut(&[u8]), mut say: impl FnMut(f32, &str)) {
        while !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
            let (part, rest) = bytes.split_at(end);
            bytes = rest;
            let ends = part.ends_with(b"\n");
            if self.passing {
                pass(part);
                self.passing = !ends;
                continue;
            }
            self.begun.extend_from_slice(&part[..part.len().min(LONGEST)]);
            let may_be = self.begun.starts_with(BEGIN) || BEGIN.starts_with(&self.begun);
            if may_be && !ends && self.begun.len() < LONGEST {
                continue;
            }
            match read(&self.begun).filter(|_| ends) {
                Some((progress, words)) => say(progress, words),
                None => {
                    pass(&self.begun);
                    pass(part.get(LONGEST..).unwrap_or_default());
                    self.passing = !ends;
                }
            }
            self.begun.clear();
        }
    }

    /// Nothing more is printed: what was begun was no such line.
    pub(super) fn end(&mut self, pass: impl FnOnce(&[u8])) {
        pass(&std::mem::take(&mut self.begun));
    }
}

/// The part, from 0 to 1, and the words of such a line.
fn read(line: &[u8]) -> Option<(f32, &str)> {
    let said = std::str::from_utf8(line.strip_prefix(BEGIN)?).ok()?.trim();
    let (part, words) = said.split_once(' ').unwrap_or((said, ""));
    let part = part.parse().ok().filter(|part| (0.0..=1.0).contains(part))?;
    Some((part, words.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said, and what is passed on.
    fn taken(parts: &[&str]) -> (Vec<(f32, String)>, String) {
        let (mut lines, mut passed, mut said) = (ProgressLines::default(), Vec::new(), Vec::new());
        for part in parts {
            lines.take(part.as_bytes(), |rest| passed.extend(rest), |part, words| said.push((part, words.to_owned())));
        }
        lines.end(|rest| passed.extend(rest));
        (said, String::from_utf8_lossy(&passed).into_owned())
    }

    #[test]
    fn such_lines_are_said_and_all_others_passed_on_however_they_come() {
        let printed =
            "a\n::progress 0.4 re sizing\n\n::progress 1\n::progress\n::progress 1.5 no\n::progress x\n :: b\n::pro";
        let expected = (
            vec![(0.4, "re sizing".to_owned()), (1.0, String::new())],
            "a\n\n::progress\n::progress 1.5 no\n::progress x\n :: b\n::pro".to_owned(),
        );
        assert_eq!(taken(&[printed]), expected);
        let bytes: Vec<&str> = printed.split_inclusive(|_| true).collect();
        assert_eq!(taken(&bytes), expected);
    }

    #[test]
    fn a_line_without_an_end_is_passed_on_and_not_kept() {
        let long = format!("::progress 0.1 {}", "x".repeat(2 * LONGEST));
        assert_eq!(taken(&[&long, "\n::progress 0.2\n"]), (vec![(0.2, String::new())], format!("{long}\n")));
        let pieces: Vec<String> = long.chars().map(String::from).collect();
        let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
        assert_eq!(taken(&pieces), (vec![], long));
    }
}
