//! AS_PATH as it is received: read, merged with AS4_PATH, written as text.

use std::fmt;

/// Segments, the nearest AS first.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AsPath(Vec<Segment>);

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    kind: Kind,
    /// At least one.
    asns: Vec<u32>,
}

/// RFC 4271 section 4.3, RFC 5065 section 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Set,
    Sequence,
    ConfedSequence,
    ConfedSet,
}

impl AsPath {
    /// AS numbers of four bytes or of two. `Err`: why it is malformed (RFC 7606 section 7.2, RFC 7607).
    pub(super) fn read(mut value: &[u8], four_octet_as: bool) -> Result<AsPath, &'static str> {
        let size = if four_octet_as { 4 } else { 2 };
        let mut segments = Vec::new();
        while let Some(kind) = value.split_off_first() {
            let kind = match kind {
                1 => Kind::Set,
                2 => Kind::Sequence,
                3 => Kind::ConfedSequence,
                4 => Kind::ConfedSet,
                _ => return Err("a segment of an unknown type"),
            };
            let count = value.split_off_first().ok_or("a segment breaks off")?;
            if *count == 0 {
                return Err("a segment without an AS");
            }
            let asns = value
                .split_off(..size * usize::from(*count))
                .ok_or("a segment breaks off")?;
            let asns: Vec<u32> = asns.chunks_exact(size).map(number).collect();
            if asns.contains(&0) {
                return Err("AS 0");
            }
            segments.push(Segment { kind, asns });
        }
        Ok(AsPath(segments))
    }

    /// RFC 5065 section 5: only members of a confederation may say so.
    pub(super) fn has_confederation(&self) -> bool {
        self.0.iter().any(|segment| segment.kind.is_confederation())
    }

    /// This one, of two-byte numbers, with the AS4_PATH that came beside it (RFC 6793 section 4.2.3).
    pub(super) fn merged(self, four_octet: AsPath) -> AsPath {
        let real = |segment: &Segment| !segment.kind.is_confederation();
        let tail: Vec<Segment> = four_octet.0.into_iter().filter(real).collect();
        let count = |path: &[Segment]| path.iter().map(Segment::count).sum::<usize>();
        let Some(mut lead) = count(&self.0).checked_sub(count(&tail)) else {
            return self;
        };
        let mut merged = Vec::new();
        for mut segment in self.0 {
            if segment.kind.is_confederation() {
                merged.push(segment);
                continue;
            }
            if lead == 0 {
                break;
            }
            if segment.count() > lead {
                segment.asns.truncate(lead);
                merged.push(segment);
                break;
            }
            lead -= segment.count();
            merged.push(segment);
        }
        merged.extend(tail);
        AsPath(merged)
    }
}

impl Segment {
    /// As the length of a path counts it (RFC 4271 section 9.1.2.2, RFC 5065 section 5.3).
    fn count(&self) -> usize {
        match self.kind {
            Kind::Set => 1,
            Kind::Sequence => self.asns.len(),
            Kind::ConfedSequence | Kind::ConfedSet => 0,
        }
    }
}

impl Kind {
    fn is_confederation(self) -> bool {
        matches!(self, Kind::ConfedSequence | Kind::ConfedSet)
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// Sets in braces, confederation sequences in parentheses, confederation sets in brackets:
/// `65001 {64600 64601}`.
impl fmt::Display for AsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, segment) in self.0.iter().enumerate() {
            let (open, close) = match segment.kind {
                Kind::Set => ("{", "}"),
                Kind::Sequence => ("", ""),
                Kind::ConfedSequence => ("(", ")"),
                Kind::ConfedSet => ("[", "]"),
            };
            f.write_str(if at == 0 { "" } else { " " })?;
            f.write_str(open)?;
            for (at, asn) in segment.asns.iter().enumerate() {
                f.write_str(if at == 0 { "" } else { " " })?;
                write!(f, "{asn}")?;
            }
            f.write_str(close)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text() {
        let text = |value: &[u8]| AsPath::read(value, false).map(|path| path.to_string());
        assert_eq!(text(&[]), Ok(String::new()));
        let path = [2, 1, 0, 9, 1, 2, 0, 7, 0, 8, 3, 1, 0, 5, 4, 2, 0, 6, 0, 4];
        assert_eq!(text(&path), Ok("9 {7 8} (5) [6 4]".into()));
        let four = AsPath::read(&[2, 2, 0, 1, 0, 0, 0, 0, 0, 1], true);
        assert_eq!(four.unwrap().to_string(), "65536 1");
    }

    fn check(two: &[(Kind, &[u32])], four: &[(Kind, &[u32])], merged: &str) {
        let path = |segments: &[(Kind, &[u32])]| {
            let segment = |(kind, asns): &(Kind, &[u32])| Segment {
                kind: *kind,
                asns: asns.to_vec(),
            };
            AsPath(segments.iter().map(segment).collect())
        };
        assert_eq!(path(two).merged(path(four)).to_string(), merged);
    }

    /// RFC 6793 section 4.2.3.
    #[test]
    fn four_byte_numbers_take_the_place_of_the_last_ones() {
        use Kind::{ConfedSequence, Sequence, Set};
        let trans = 23456;
        check(
            &[(Sequence, &[7, trans, trans])],
            &[(Sequence, &[70000, 80000])],
            "7 70000 80000",
        );
        check(
            &[(Sequence, &[trans])],
            &[(Sequence, &[70000, 80000])],
            "23456",
        );
        check(
            &[(Sequence, &[7]), (Set, &[trans, 8]), (Sequence, &[trans])],
            &[(Sequence, &[70000])],
            "7 {23456 8} 70000",
        );
        check(
            &[
                (ConfedSequence, &[64600]),
                (Sequence, &[7, 8]),
                (Set, &[trans]),
            ],
            &[(ConfedSequence, &[1, 2, 3]), (Set, &[70000, 70001])],
            "(64600) 7 8 {70000 70001}",
        );
    }
}
