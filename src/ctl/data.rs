//! Headers and data of tasks and results: read from options and files, shown, and written to files.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::path::Path;

use indicatif::BinaryBytes;

use super::Error;
use super::args::{Beside, Task};
use super::lines::LONGEST;
use super::link::Link;
use crate::attachment::{CONTENT_TYPE, Headers};
use crate::terminal::escape;
use crate::wire::control as pb;

impl Beside {
    /// The headers; an error if they are not within their bounds together, or one is given twice.
    pub(super) fn headers(&self) -> Result<HashMap<String, String>, Error> {
        Headers::new(self.header.iter().cloned()).map_err(|e| Error::Usage(format!("--header: {e}")))?;
        let headers: HashMap<_, _> = self.header.iter().cloned().collect();
        match headers.len() == self.header.len() {
            true => Ok(headers),
            false => Err(Error::Usage("--header: a key is given twice, and has one value".into())),
        }
    }

    /// Whether the data is to come from standard input.
    pub(super) fn is_stdin(&self) -> bool {
        self.data_file.as_deref() == Some(Path::new("-"))
    }

    /// The bytes of the file; none, if none is named.
    pub(super) fn data(&self) -> Result<Vec<u8>, Error> {
        let Some(path) = &self.data_file else { return Ok(Vec::new()) };
        let name = if self.is_stdin() { "standard input".into() } else { escape(&path.to_string_lossy()).into_owned() };
        let mut data = Vec::new();
        let most = LONGEST as u64 + 1;
        let read = match self.is_stdin() {
            true => io::stdin().take(most).read_to_end(&mut data),
            false => File::open(path).and_then(|file| file.take(most).read_to_end(&mut data)),
        };
        match read {
            Err(source) => Err(Error::Input { name, source }),
            Ok(0) => Err(Error::Usage(format!("{name} is empty: there is no data in it"))),
            Ok(length) if length > LONGEST => Err(Error::Usage(format!("{name} is longer than {} MiB", LONGEST >> 20))),
            Ok(_) => Ok(data),
        }
    }
}

/// In a cell beside a text, or instead of it: `[content-type=text/csv, 12 KiB of data]`. Empty: there is nothing to say.
pub(super) fn in_brackets<'a>(headers: impl IntoIterator<Item = (&'a String, &'a String)>, size: u64) -> String {
    let mut parts: Vec<String> = headers.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    parts.sort_unstable();
    parts.extend((size > 0).then(|| format!("{} of data", BinaryBytes(size))));
    if parts.is_empty() { String::new() } else { format!("[{}]", parts.join(", ")) }
}

/// `12 KiB, text/csv`.
pub(super) fn size_and_type(headers: &BTreeMap<String, String>, size: u64) -> String {
    let kind = headers.get(CONTENT_TYPE).map_or(String::new(), |kind| format!(", {kind}"));
    format!("{}{kind}", BinaryBytes(size))
}

/// Asks for the data of a task, or, if `result` is not 0, of that result.
pub(super) fn get(link: &Link, task: u64, result: u64) -> Result<Vec<u8>, Error> {
    let request = pb::GetDataRequest { task, result, ..Default::default() };
    Ok(link.wait(link.client.get_data(&request, Link::answer_soon()))?.data)
}

/// Writes the data of the task, or of one of its results, to a file that is not there yet.
pub(super) fn write(link: &Link, task: &Task, to: &Path) -> Result<(), Error> {
    let is_stdout = to == Path::new("-");
    if is_stdout && io::stdout().is_terminal() {
        let why = "data is not written to a terminal, which would take it for commands: name a file, or pipe it into a program";
        return Err(Error::Usage(why.into()));
    }
    let data = get(link, task.id, task.result.unwrap_or(0))?;
    if data.is_empty() {
        let of = task.result.map_or(format!("task {}", task.id), |seq| format!("result {seq}"));
        return Err(Error::Refused(format!("{of} has no data")));
    }
    if is_stdout {
        return io::stdout().write_all(&data).map_err(Error::Output);
    }
    let file = File::options().write(true).create_new(true).open(to);
    let written = file.and_then(|mut file| file.write_all(&data));
    written.map_err(|source| Error::File { name: escape(&to.to_string_lossy()).into_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_beside_a_text_is_said_in_a_few_words() {
        let headers = [("b".to_owned(), "2".to_owned()), (CONTENT_TYPE.to_owned(), "text/csv".to_owned())];
        let (headers, none) = (BTreeMap::from(headers), BTreeMap::new());
        assert_eq!(in_brackets(&none, 0), "");
        assert_eq!(in_brackets(&none, 2048), "[2.00 KiB of data]");
        assert_eq!(in_brackets(&headers, 5), "[b=2, content-type=text/csv, 5 B of data]");
        assert_eq!(size_and_type(&headers, 5), "5 B, text/csv");
        assert_eq!(size_and_type(&none, 5), "5 B");
    }
}
