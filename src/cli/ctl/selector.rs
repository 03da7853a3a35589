//! What a command is about: a selector (`dc=eqiad,name=cp10.*`), a pool's tags, names in a pool.
//! Text → type; nothing here talks to etcd.

use regex::Regex;

use super::object::Object;
use crate::conftool::{PoolPath, is_tag};

/// A node's tags, by confctl's names and in its order.
const TAGS: [&str; 4] = ["dc", "cluster", "service", "name"];

/// Why a text says of no object whether it is meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadSelector {
    #[error("the selector is empty; write tag=REGEX, tags are {}", allowed())]
    Empty,
    #[error("{part:?} in the selector is not tag=REGEX; tags are {}", allowed())]
    NoValue { part: String },
    #[error(
        "the comma within {{…}} in {part:?} ends the expression, as it does in confctl; \
         write {{n}}, or alternatives with |"
    )]
    Comma { part: String },
    #[error("unknown tag {tag:?} in the selector; tags are {}", allowed())]
    Unknown { tag: String },
    #[error("the selector names {tag} twice; write one expression, alternatives with |")]
    Twice { tag: &'static str },
    #[error("the selector's expression for {tag} is empty; leave {tag} out to mean all")]
    EmptyExpression { tag: &'static str },
    #[error("{expression:?} is not a regular expression: {fault}")]
    Expression { expression: String, fault: String },
    #[error("the tags {text:?} lack {tag}; write dc=DC,cluster=CLUSTER,service=SERVICE")]
    Lacks { text: String, tag: &'static str },
    #[error("{value:?} cannot be the {tag} of a pool; `tags` takes no expressions")]
    Value { tag: &'static str, value: String },
    #[error("{0:?} cannot be an object's name; names are taken as they stand")]
    Name(String),
}

fn allowed() -> String {
    TAGS.join(", ")
}

/// `select`'s: one anchored expression a tag; a tag that has none matches all.
#[derive(Clone, Debug)]
pub(super) struct Selector {
    expressions: [Option<Regex>; 4],
}

impl Selector {
    pub(super) fn parse(text: &str) -> Result<Selector, BadSelector> {
        if text.trim().is_empty() {
            return Err(BadSelector::Empty);
        }
        let mut expressions = [None, None, None, None];
        let mut parts = text.split(',').peekable();
        while let Some(part) = parts.next() {
            let Some((tag, expression)) = part.split_once('=') else {
                return Err(BadSelector::NoValue { part: part.into() });
            };
            if let Some(rest) = parts.peek()
                && opens_brace(expression)
            {
                let part = format!("{part},{rest}");
                return Err(BadSelector::Comma { part });
            }
            let Some(index) = TAGS.iter().position(|known| *known == tag) else {
                return Err(BadSelector::Unknown { tag: tag.into() });
            };
            let tag = TAGS[index];
            if expressions[index].is_some() {
                return Err(BadSelector::Twice { tag });
            }
            if expression.is_empty() {
                return Err(BadSelector::EmptyExpression { tag });
            }
            expressions[index] = Some(anchored(expression, "$")?);
        }
        Ok(Selector { expressions })
    }

    /// One host, in all its services or in those that the expression says.
    pub(super) fn of_host(hostname: &str, service: Option<&str>) -> Result<Selector, BadSelector> {
        if !is_tag(hostname) {
            return Err(BadSelector::Name(hostname.into()));
        }
        let mut text = format!("name={}", regex::escape(hostname));
        if let Some(service) = service {
            text += &format!(",service={service}");
        }
        Selector::parse(&text)
    }

    pub(super) fn matches(&self, object: &Object) -> bool {
        let [dc, cluster, service] = object.pool.tags();
        self.expressions
            .iter()
            .zip([dc, cluster, service, &object.name])
            .all(|(expression, value)| {
                expression
                    .as_ref()
                    .is_none_or(|expression| expression.is_match(value))
            })
    }
}

/// Whether a `{` is not closed before the comma that ends this.
fn opens_brace(expression: &str) -> bool {
    expression
        .rfind('{')
        .is_some_and(|at| !expression[at..].contains('}'))
}

/// The whole of a value has to match (`end` is `$`), or its beginning.
fn anchored(expression: &str, end: &str) -> Result<Regex, BadSelector> {
    let bad = |fault: &regex::Error| BadSelector::Expression {
        expression: expression.into(),
        // The last line says what is wrong, those before point at it.
        fault: last_line(&fault.to_string()),
    };
    // By itself first: "a)(b" would be good between our own parentheses.
    Regex::new(expression).map_err(|fault| bad(&fault))?;
    Regex::new(&format!("^(?:{expression}){end}")).map_err(|fault| bad(&fault))
}

fn last_line(text: &str) -> String {
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

/// `tags`' first argument: all three tags of a pool, in any order.
pub(super) fn pool(text: &str) -> Result<PoolPath, BadSelector> {
    let mut values: [Option<&str>; 3] = [None; 3];
    for part in text.split(',') {
        let Some((tag, value)) = part.split_once('=') else {
            return Err(BadSelector::NoValue { part: part.into() });
        };
        let (tag, value) = (tag.trim(), value.trim());
        let Some(index) = TAGS[..3].iter().position(|known| *known == tag) else {
            return Err(BadSelector::Unknown { tag: tag.into() });
        };
        let tag = TAGS[index];
        if values[index].is_some() {
            return Err(BadSelector::Twice { tag });
        }
        if !is_tag(value) {
            let value = value.to_owned();
            return Err(BadSelector::Value { tag, value });
        }
        values[index] = Some(value);
    }
    let lacks = |index: usize| BadSelector::Lacks {
        text: text.into(),
        tag: TAGS[index],
    };
    let value = |index: usize| values[index].ok_or_else(|| lacks(index));
    let path = [value(0)?, value(1)?, value(2)?].join("/");
    // Three tags, each of them good: they are a path.
    path.parse().map_err(|_| BadSelector::Empty)
}

/// Which objects of a pool one `--action` is about.
#[derive(Clone, Debug)]
pub(super) enum Names {
    All,
    /// Anchored at the beginning only, as confctl's.
    Pattern(Regex),
    One(String),
}

impl Names {
    pub(super) fn parse(text: &str) -> Result<Names, BadSelector> {
        if text == "all" {
            return Ok(Names::All);
        }
        match text.strip_prefix("re:") {
            Some(expression) => anchored(expression, "").map(Names::Pattern),
            None if is_tag(text) => Ok(Names::One(text.to_owned())),
            None => Err(BadSelector::Name(text.into())),
        }
    }

    pub(super) fn matches(&self, name: &str) -> bool {
        match self {
            Names::All => true,
            Names::Pattern(pattern) => pattern.is_match(name),
            Names::One(one) => one == name,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(path: &str) -> Object {
        let (pool, name) = path.rsplit_once('/').unwrap();
        Object {
            pool: pool.parse().unwrap(),
            name: name.into(),
            node: None,
            lease: None,
        }
    }

    #[test]
    fn a_selector_says_who_is_meant() {
        let check = |selector: &str, path: &str, expected: bool| {
            let selector = Selector::parse(selector).unwrap();
            assert_eq!(
                selector.matches(&object(path)),
                expected,
                "{selector:?} {path}"
            );
        };
        check("dc=eqiad", "eqiad/text/nginx/cp1", true);
        check("dc=eqiad", "eqiad2/text/nginx/cp1", false);
        check("dc=eq", "eqiad/text/nginx/cp1", false);
        check(
            "dc=eqiad,cluster=te.t,service=nginx|varnish,name=cp1",
            "eqiad/text/varnish/cp1",
            true,
        );
        // Alternatives are anchored both, unlike confctl's.
        check("name=cp1|cp2", "a/b/c/cp10", false);
        check("name=cp1|cp2", "a/b/c/cp2", true);
        check("name=cp1[0-9]{1}", "a/b/c/cp12", true);
        check("name=a=b", "a/b/c/a=b", true);
    }

    #[test]
    fn a_bad_selector_is_told_what_is_wrong_with_it() {
        let check = |selector: &str, expected: &str| {
            let fault = Selector::parse(selector).unwrap_err().to_string();
            assert!(fault.contains(expected), "{selector}: {fault}");
        };
        check("", "empty; write tag=REGEX");
        check(
            "host=cp1",
            "unknown tag \"host\" in the selector; tags are dc, cluster, service, name",
        );
        check(" name=cp1", "unknown tag \" name\"");
        check("dc=eqiad,", "\"\" in the selector is not tag=REGEX");
        check(
            "name",
            "\"name\" in the selector is not tag=REGEX; tags are dc",
        );
        check("name=a,dc=b,name=c", "names name twice");
        check("name=", "expression for name is empty");
        check(
            "name=cp[0-9]{1,2}",
            "comma within {…} in \"name=cp[0-9]{1,2}\"",
        );
        check(
            "name=cp(",
            "\"cp(\" is not a regular expression: unclosed group",
        );
        check("name=a)(b", "is not a regular expression");
        check("name=(?=a)b", "look-around");
    }

    #[test]
    fn tags_are_a_pools_and_all_of_them() {
        let path = pool(" service = nginx,dc=eqiad , cluster=text").unwrap();
        assert_eq!(path.as_str(), "eqiad/text/nginx");
        let check = |tags: &str, expected: &str| {
            let fault = pool(tags).unwrap_err().to_string();
            assert!(fault.contains(expected), "{tags}: {fault}");
        };
        check("dc=eqiad,cluster=text", "lack service");
        check(
            "dc=a,cluster=b,service",
            "\"service\" in the selector is not",
        );
        check("dc=a,cluster=b,service=c,name=d", "unknown tag \"name\"");
        check("dc=a,dc=a,cluster=b,service=c", "names dc twice");
        check("dc=,cluster=b,service=c", "\"\" cannot be the dc");
        check("dc=a/b,cluster=b,service=c", "\"a/b\" cannot be the dc");
    }

    #[test]
    fn names_are_one_or_all_or_a_pattern() {
        let check = |names: &str, name: &str, expected: bool| {
            let names = Names::parse(names).unwrap();
            assert_eq!(names.matches(name), expected, "{names:?} {name}");
        };
        check("all", "srv1", true);
        check("srv1", "srv1", true);
        check("srv.", "srv1", false);
        check("re:srv[12]", "srv1", true);
        // confctl's: the end is free.
        check("re:srv[12]", "srv10", true);
        check("re:rv", "srv1", false);
        assert!(Names::parse("re:(").is_err());
        assert!(Names::parse("a/b").is_err());
        assert!(Names::parse("").is_err());
    }

    #[test]
    fn a_hosts_selector_takes_the_name_as_it_stands() {
        let selector = Selector::of_host("cp1.example", None).unwrap();
        assert!(selector.matches(&object("a/b/c/cp1.example")));
        assert!(!selector.matches(&object("a/b/c/cp1xexample")));
        let selector = Selector::of_host("cp1", Some("n.*")).unwrap();
        assert!(selector.matches(&object("a/b/nginx/cp1")));
        assert!(!selector.matches(&object("a/b/varnish/cp1")));
        assert!(Selector::of_host("", None).is_err());
    }
}
