//! How a mistake quotes what it found, and which known word an unknown one may have been meant for.

/// The most characters that are quoted of any text.
pub(super) const QUOTED: usize = 80;

/// The fewest letters that say which word they begin.
const BEGINNING: usize = 4;

/// The text in quotes, its control characters escaped, the rest of a long one left out.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

/// The word that `text` is a misspelling of, if it is near to any, or else the only one that it begins.
pub(super) fn nearest<'a>(text: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if text.chars().nth(QUOTED).is_some() {
        return None;
    }
    let text = plain(text);
    let words: Vec<&str> = words.into_iter().collect();
    let distance = |word: &&'a str| (strsim::osa_distance(&text, &plain(word)), *word);
    let (distance, word) = words.iter().map(distance).min()?;
    let letters = word.chars().count().min(text.chars().count());
    if distance <= letters / 3 {
        return Some(word);
    }
    let mut begun = words.iter().filter(|word| plain(word).starts_with(&text));
    match (begun.next(), begun.next()) {
        (Some(word), None) if text.len() >= BEGINNING => Some(word),
        _ => None,
    }
}

/// Without what differs between `depool-threshold`, `depool_threshold` and `DepoolThreshold`.
fn plain(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_' | ' '))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word() {
        let words = ["scheduler", "port", "address", "proxy-fetch", "wrr", "rr"];
        for (text, near) in [
            ("shceduler", Some("scheduler")),
            ("Scheduler", Some("scheduler")),
            ("ports", Some("port")),
            ("adress", Some("address")),
            ("ProxyFetch", Some("proxy-fetch")),
            ("proxy_fetch", Some("proxy-fetch")),
            ("wr", None),
            ("sched", Some("scheduler")),
            ("proxy", Some("proxy-fetch")),
            ("add", None),
            ("wrrr", Some("wrr")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(text, words), near, "{text:?}");
        }
        assert_eq!(nearest(&"scheduler".repeat(1000), words), None);
    }

    #[test]
    fn quotes_are_short_and_plain() {
        assert_eq!(quoted("a\n\u{1b}[31m"), r#""a\n\u{1b}[31m""#);
        assert_eq!(quoted(&"ü".repeat(81)), format!("\"{}\"…", "ü".repeat(80)));
    }
}
