//! An argument of a command, with words in braces that stand for what is checked.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use crate::service::{Host, ServiceName};

/// `--port={port}`, say. `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    text: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Word(Word),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Host,
    Address,
    Port,
    Service,
}

const WORDS: [(&str, Word); 4] = [
    ("host", Word::Host),
    ("address", Word::Address),
    ("port", Word::Port),
    ("service", Word::Service),
];

/// Why a text is no argument.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    #[error(
        "{{{0}}} stands for nothing; write {{host}}, {{address}}, {{port}} or {{service}}, and {{{{ for a brace"
    )]
    Unknown(String),
    #[error("a {{ without its }}; write {{{{ for a brace")]
    Open,
    #[error("a }} without its {{; write }}}} for a brace")]
    Close,
    #[error("a zero byte, which no argument can have; leave it out")]
    Zero,
}

impl Argument {
    /// Whether it is another text for another service.
    pub fn names_service(&self) -> bool {
        self.parts.contains(&Part::Word(Word::Service))
    }

    /// The text that the program is given. IPv6 addresses have no brackets.
    pub fn fill(&self, service: &ServiceName, host: &Host, target: SocketAddr) -> String {
        let word = |word| match word {
            Word::Host => host.to_string(),
            Word::Address => target.ip().to_string(),
            Word::Port => target.port().to_string(),
            Word::Service => service.to_string(),
        };
        let parts = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Word(name) => word(*name),
        });
        parts.collect()
    }
}

impl FromStr for Argument {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Argument, BadArgument> {
        if text.contains('\0') {
            return Err(BadArgument::Zero);
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            parts.push(Part::Text(before.to_owned()));
            if let Some(after) = from.strip_prefix("{{") {
                parts.push(Part::Text("{".to_owned()));
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                parts.push(Part::Text("}".to_owned()));
                rest = after;
            } else {
                let inside = from.strip_prefix('{').ok_or(BadArgument::Close)?;
                let (name, after) = inside.split_once('}').ok_or(BadArgument::Open)?;
                let word = WORDS.iter().find(|(known, _)| *known == name);
                let (_, word) = word.ok_or_else(|| BadArgument::Unknown(name.to_owned()))?;
                parts.push(Part::Word(*word));
                rest = after;
            }
        }
        parts.push(Part::Text(rest.to_owned()));
        Ok(Argument {
            text: text.to_owned(),
            parts,
        })
    }
}

/// As it stands in the file.
impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Argument {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let service = "web".parse().expect("a good name");
        let host = "a.example.com".parse().expect("a good name");
        let target = "[2001:db8::1]:80".parse().expect("a good address");
        let filled = match text.parse::<Argument>() {
            Ok(argument) => Ok(argument.fill(&service, &host, target)),
            Err(error) => Err(error.to_string()),
        };
        let filled = filled.as_deref().map_err(String::as_str);
        assert_eq!(filled, expected, "{text}");
    }

    #[test]
    fn words_in_braces() {
        check("", Ok(""));
        check("-H", Ok("-H"));
        check(
            "{service}: {host} is {address},{port}",
            Ok("web: a.example.com is 2001:db8::1,80"),
        );
        check("{{host}} {{{port}}}", Ok("{host} {80}"));
        check("ü{port}ü", Ok("ü80ü"));
        let unknown = "{name} stands for nothing; write {host}, {address}, {port} or {service}, and {{ for a brace";
        check("x{name}", Err(unknown));
        check("{host", Err("a { without its }; write {{ for a brace"));
        check("{host}}", Err("a } without its {; write }} for a brace"));
        check(
            "a\0",
            Err("a zero byte, which no argument can have; leave it out"),
        );
    }
}
