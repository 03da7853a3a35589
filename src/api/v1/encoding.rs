//! What the headers of a request let an answer be: whether JSON, whether packed, whether it is known already.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::HeaderMap;
use hyper::header::{ACCEPT_ENCODING, IF_NONE_MATCH};

/// Shorter answers are not packed: they fill a packet or two as they are.
pub(super) const SMALL: usize = 1024;

/// Whether the client takes gzip (RFC 9110 section 12.5.3).
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for coding in elements(headers, ACCEPT_ENCODING) {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=");
        let wanted = weight.and_then(|q| q.trim().parse::<f32>().ok()) != Some(0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => {
                return wanted;
            }
            "*" => any = wanted,
            _ => {}
        }
    }
    any
}

/// Whether the client has what this tag stands for (RFC 9110 section 13.1.2), by weak comparison.
pub(super) fn has(headers: &HeaderMap, tag: &str) -> bool {
    let opaque = |tag: &str| tag.strip_prefix("W/").unwrap_or(tag).to_owned();
    elements(headers, IF_NONE_MATCH).any(|known| known == "*" || opaque(known) == opaque(tag))
}

fn elements(headers: &HeaderMap, name: hyper::header::HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter();
    let values = values.filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// Weak (RFC 9110 section 8.8.1): the same for what is packed and what is not.
pub(super) fn tag(body: &[u8]) -> String {
    let hash = ring::digest::digest(&ring::digest::SHA256, body);
    let digits = hash
        .as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"));
    format!("W/\"{}\"", digits.collect::<String>())
}

/// Fast rather than small: the same text is made anew with each change.
pub(super) fn gzip(body: &[u8]) -> Bytes {
    let mut packer = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::fast());
    // Writing to memory cannot fail.
    let _ = packer.write_all(body);
    packer.finish().unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn headers(name: hyper::header::HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(&name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn who_takes_gzip() {
        for (values, expected) in [
            (&[][..], false),
            (&[""], false),
            (&["identity"], false),
            (&["gzip"], true),
            (&["deflate, GZip;q=0.5, br"], true),
            (&["x-gzip"], true),
            (&["br", "gzip"], true),
            (&["gzip;q=0"], false),
            (&["gzip; q=0.000, *"], false),
            (&["*"], true),
            (&["*;q=0"], false),
            (&["gzip;q=nonsense"], true),
        ] {
            let headers = headers(ACCEPT_ENCODING, values);
            assert_eq!(takes_gzip(&headers), expected, "{values:?}");
        }
    }

    #[test]
    fn who_has_it_already() {
        for (values, expected) in [
            (&[][..], false),
            (&["\"a\""], true),
            (&["W/\"a\""], true),
            (&["\"b\", W/\"a\""], true),
            (&["\"b\"", "\"a\""], true),
            (&["*"], true),
            (&["\"b\""], false),
            (&["a"], false),
        ] {
            let headers = headers(IF_NONE_MATCH, values);
            assert_eq!(has(&headers, "W/\"a\""), expected, "{values:?}");
        }
        assert_ne!(tag(b"a"), tag(b"b"));
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        for text in [String::new(), "enabled/up/pooled\n".repeat(10_000)] {
            let packed = gzip(text.as_bytes());
            let mut unpacked = String::new();
            let mut reader = flate2::read::GzDecoder::new(&*packed);
            reader.read_to_string(&mut unpacked).unwrap();
            assert_eq!(unpacked, text);
            assert!(packed.len() < 100 + text.len() / 10, "{}", packed.len());
        }
    }
}
