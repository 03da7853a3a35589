//! `Accept` → text or JSON (RFC 9110 section 12.5.1). Text unless JSON is liked better: PyBal gives
//! JSON only to those who ask for it.

use hyper::HeaderMap;
use hyper::header::ACCEPT;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Text,
    Json,
}

impl Form {
    pub(super) fn wanted(headers: &HeaderMap) -> Form {
        let ranges = Range::all(headers);
        let json = quality(&ranges, "application", "json");
        if json > quality(&ranges, "text", "plain") {
            Form::Json
        } else {
            Form::Text
        }
    }
}

/// In which form events are given; JSON to whoever does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Json,
    EventStream,
    Neither,
}

impl Taken {
    pub(super) fn of(headers: &HeaderMap) -> Taken {
        if !headers.contains_key(ACCEPT) {
            return Taken::Json;
        }
        let ranges = Range::all(headers);
        let json = quality(&ranges, "application", "json");
        let stream = quality(&ranges, "text", "event-stream");
        match (json, stream) {
            (0, 0) => Taken::Neither,
            _ if stream > json => Taken::EventStream,
            _ => Taken::Json,
        }
    }
}

/// Whether JSON may be sent. Where the header is not there, or nothing in it can be read, everything may.
pub(super) fn takes_json(headers: &HeaderMap) -> bool {
    let ranges = Range::all(headers);
    ranges.is_empty() || quality(&ranges, "application", "json") > 0
}

/// One media range of the header and its weight in thousandths.
struct Range<'a> {
    kind: &'a str,
    subtype: &'a str,
    quality: u16,
}

impl Range<'_> {
    fn all(headers: &HeaderMap) -> Vec<Range<'_>> {
        let values = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let ranges = values.flat_map(|value| value.split(','));
        ranges.filter_map(Range::parse).collect()
    }

    fn parse(text: &str) -> Option<Range<'_>> {
        let mut parts = text.split(';').map(str::trim);
        let (kind, subtype) = parts.next()?.split_once('/')?;
        let quality = parts.find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim()
                .eq_ignore_ascii_case("q")
                .then(|| thousandths(value.trim()))
        });
        Some(Range {
            kind,
            subtype,
            quality: quality.unwrap_or(1000),
        })
    }

    /// 0: does not match; the more, the closer.
    fn matches(&self, kind: &str, subtype: &str) -> u8 {
        match (self.kind, self.subtype) {
            ("*", "*") => 1,
            (k, "*") if k.eq_ignore_ascii_case(kind) => 2,
            (k, s) if k.eq_ignore_ascii_case(kind) && s.eq_ignore_ascii_case(subtype) => 3,
            _ => 0,
        }
    }
}

/// The weight that the closest range gives.
fn quality(ranges: &[Range<'_>], kind: &str, subtype: &str) -> u16 {
    let matching = ranges
        .iter()
        .map(|range| (range.matches(kind, subtype), range.quality));
    matching
        .filter(|(closeness, _)| *closeness > 0)
        .max()
        .map_or(0, |(_, quality)| quality)
}

/// Nonsense counts as 1, as if it were not there.
fn thousandths(value: &str) -> u16 {
    let quality = value
        .parse::<f32>()
        .ok()
        .filter(|quality| (0.0..=1.0).contains(quality));
    quality.map_or(1000, |quality| (quality * 1000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms() {
        for (accept, expected) in [
            (&[][..], Form::Text),
            (&["*/*"], Form::Text),
            (&[""], Form::Text),
            (&["text/plain"], Form::Text),
            (&["text/html"], Form::Text),
            (&["application/json"], Form::Json),
            (&["Application/JSON; charset=utf-8"], Form::Json),
            (&["application/*"], Form::Json),
            (&["application/json;q=0"], Form::Text),
            (&["application/json, text/plain"], Form::Text),
            (&["application/json, text/plain;q=0.9"], Form::Json),
            (&["application/json;q=0.8, text/plain;q=0.9"], Form::Text),
            (&["application/json, */*;q=0.1"], Form::Json),
            (&["application/json;q=0.1, */*"], Form::Text),
            (
                &["text/plain;q=0.2", "application/json ; Q=0.300"],
                Form::Json,
            ),
            (
                &["*/*;q=1, text/*;q=0.5, text/plain;q=0.1, application/*;q=0.2"],
                Form::Json,
            ),
            (&["application/json;q=7"], Form::Json),
            (&["json"], Form::Text),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(Form::wanted(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn events() {
        for (accept, expected) in [
            (None, Taken::Json),
            (Some("*/*"), Taken::Json),
            (Some("application/json"), Taken::Json),
            (Some("text/event-stream"), Taken::EventStream),
            (Some("text/event-stream, */*;q=0.1"), Taken::EventStream),
            (
                Some("text/event-stream;q=0.1, application/json"),
                Taken::Json,
            ),
            (Some("text/html"), Taken::Neither),
            (Some("text/event-stream;q=0"), Taken::Neither),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(accept) = accept {
                headers.insert(ACCEPT, accept.parse().unwrap());
            }
            assert_eq!(Taken::of(&headers), expected, "{accept:?}");
        }
    }

    #[test]
    fn who_takes_json() {
        for (accept, expected) in [
            (&[][..], true),
            (&[""], true),
            (&["json"], true),
            (&["*/*"], true),
            (&["text/html", "application/*;q=0.1"], true),
            (&["application/json"], true),
            (&["text/plain"], false),
            (&["application/json;q=0, */*"], false),
            (&["application/xml, text/*"], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in accept {
                headers.append(ACCEPT, value.parse().unwrap());
            }
            assert_eq!(takes_json(&headers), expected, "{accept:?}");
        }
    }
}
