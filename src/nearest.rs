//! Which known word a misspelt one was probably meant to be.

/// The nearest of the known words, if it is near enough: one letter off, and one more for each five letters.
pub(crate) fn nearest<'a>(word: &str, among: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = among.into_iter().map(|one| (strsim::osa_distance(word, one), one));
    near.filter(|(distance, one)| *distance <= 1 + one.len() / 5).min().map(|(_, one)| one)
}
