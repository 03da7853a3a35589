//! `[service.NAME.monitor.load]`: the share of its weight that a server is good for, as its answers say.

use hyper::header::HeaderName;

use crate::check::{Load, LoadFrom, LoadKind, Thousandths};
use crate::config::reader::{Key, Node, Table, key};
use crate::config::spelling::quoted;

pub(in crate::config) const KEYS: &[Key] = &[
    key("header"),
    key("json"),
    key("idle"),
    key("full"),
    key("smoothing"),
    key("step"),
    key("least"),
    key("most"),
];

/// Of the monitors whose answers may have one.
pub(super) const KEY: &[Key] = &[key("load")];

/// Where a type of monitor has something to read it from.
#[derive(Clone, Copy)]
pub(super) enum Answer {
    Output,
    Http,
}

/// `None`: there is nothing in its answers to read.
pub(super) fn answer(kind: &str) -> Option<Answer> {
    match kind {
        "run-command" => Some(Answer::Output),
        "http" => Some(Answer::Http),
        _ => None,
    }
}

pub(super) fn load(node: &Node<'_>, answer: Answer) -> Option<Load> {
    let table = node.table(KEYS)?;
    let from = from(&table, answer);
    let what = what(&table);
    let percent = |key, default, least, most| {
        table.or(key, default, |node: &Node<'_>| node.integer(least, most))
    };
    let smoothing = percent("smoothing", 50, 0, 99);
    let step = percent("step", 10, 1, 1000);
    let least = percent("least", 10, 1, 100);
    let most = percent("most", 100, 100, 1000);
    if let (Some(node), Some(LoadKind::Load { .. })) = (table.get("most"), what) {
        node.mistake("of no use with idle and full, by which 100 is the most; leave it out");
        return None;
    }
    Some(Load {
        from: from?,
        what: what?,
        smoothing: smoothing?,
        step: step?,
        least: least?,
        most: most?,
    })
}

fn from(table: &Table<'_>, answer: Answer) -> Option<LoadFrom> {
    let (header, json) = (table.get("header"), table.get("json"));
    match (answer, header, json) {
        (Answer::Output, None, None) => Some(LoadFrom::Output),
        (Answer::Output, Some(node), _) | (Answer::Output, None, Some(node)) => {
            node.mistake(
                "of no use with run-command, whose first line of output counts; leave it out",
            );
            None
        }
        (Answer::Http, Some(node), None) => header_name(&node).map(LoadFrom::Header),
        (Answer::Http, None, Some(node)) => pointer(&node).map(LoadFrom::Json),
        (Answer::Http, Some(_), Some(node)) => {
            node.mistake("there is a header, too; leave out one of them");
            None
        }
        (Answer::Http, None, None) => {
            let example = "header = \"X-Load\" or json = \"/load\", say";
            table
                .place
                .missing("header", format_args!("missing; write {example}"));
            None
        }
    }
}

fn header_name(node: &Node<'_>) -> Option<HeaderName> {
    let text = node.string("a header's name", "X-Load")?;
    let name = text.parse::<HeaderName>().ok();
    if name.is_none() {
        let found = quoted(text);
        node.mistake(format_args!(
            "{found} is no header's name; write one like \"X-Load\""
        ));
    }
    name
}

/// RFC 6901 section 3.
fn pointer(node: &Node<'_>) -> Option<String> {
    let text = node.string("a JSON pointer", "/load")?;
    let mut escapes = text.split('~').skip(1);
    let escaped = escapes.all(|rest| rest.starts_with(['0', '1']));
    if !(text.is_empty() || text.starts_with('/')) || !escaped {
        let found = quoted(text);
        node.mistake(format_args!(
            "{found} is no JSON pointer; write one like \"/load/0\", with ~0 for ~ and ~1 for / in a name"
        ));
        return None;
    }
    Some(text.to_owned())
}

fn what(table: &Table<'_>) -> Option<LoadKind> {
    let (idle, full) = (
        table.optional("idle", thousandths),
        table.optional("full", thousandths),
    );
    match (idle?, full?) {
        (None, None) => Some(LoadKind::Weight),
        (Some(idle), Some(full)) if idle < full => Some(LoadKind::Load { idle, full }),
        (Some(_), Some(_)) => {
            let place = table.place_of("full");
            place.mistake("no more than idle; write a larger one");
            None
        }
        (Some(_), None) => {
            let place = table.place_of("idle");
            place.mistake("of no use without full; write both, or none if the number is a weight");
            None
        }
        (None, Some(_)) => {
            let place = table.place_of("full");
            place.mistake("of no use without idle; write both, or none if the number is a weight");
            None
        }
    }
}

fn thousandths(node: &Node<'_>) -> Option<Thousandths> {
    let Some(number) = node.number() else {
        node.wrong_type("a number", "0.5, say");
        return None;
    };
    let fits = Thousandths::new(number);
    if fits.is_none() {
        node.mistake(format_args!(
            "{number} is no load; write 0 or more, say 0.5"
        ));
    }
    fits
}

#[cfg(test)]
mod tests {
    use toml::de::DeTable;

    use super::super::super::report::Report;
    use super::*;

    fn read(kind: &str, text: &str) -> Result<Load, String> {
        let report = Report::new(text);
        let root = DeTable::parse(text).unwrap();
        let root = Table::root(&report, root.get_ref());
        let load = load(&root.get("load").unwrap(), answer(kind).unwrap());
        match report.into_result("FILE") {
            Ok(()) => Ok(load.expect("nothing was wrong")),
            Err(mistakes) => Err(mistakes.to_string()),
        }
    }

    fn check(kind: &str, text: &str, expected: &[&str]) {
        let lines: Vec<String> = expected.iter().map(|line| format!("FILE:{line}")).collect();
        assert_eq!(read(kind, text), Err(lines.join("\n")), "{text}");
    }

    #[test]
    fn good_ones() {
        let plain = Load {
            from: LoadFrom::Output,
            what: LoadKind::Weight,
            smoothing: 50,
            step: 10,
            least: 10,
            most: 100,
        };
        assert_eq!(read("run-command", "load = {}"), Ok(plain.clone()));
        let text = "[load]\njson = \"/a~1b/~00\"\nidle = 0.25\nfull = 8\nsmoothing = 0\nstep = 100\nleast = 1";
        let all = Load {
            from: LoadFrom::Json("/a~1b/~00".into()),
            what: LoadKind::Load {
                idle: Thousandths(250),
                full: Thousandths(8000),
            },
            smoothing: 0,
            step: 100,
            least: 1,
            ..plain.clone()
        };
        assert_eq!(read("http", text), Ok(all));
        let header = Load {
            from: LoadFrom::Header(HeaderName::from_static("x-load")),
            most: 1000,
            ..plain
        };
        let text = "[load]\nheader = \"X-Load\"\nmost = 1000";
        assert_eq!(read("http", text), Ok(header));
        assert!(answer("tcp").is_none());
    }

    #[test]
    fn mistakes() {
        check(
            "http",
            "[load]\nsmoothing = 100\nstep = 0\nleast = 0\nmost = 99",
            &[
                "1: load.header: missing; write header = \"X-Load\" or json = \"/load\", say",
                "2: load.smoothing: the integer 100 is out of range; write 0 to 99",
                "3: load.step: the integer 0 is out of range; write 1 to 1000",
                "4: load.least: the integer 0 is out of range; write 1 to 100",
                "5: load.most: the integer 99 is out of range; write 100 to 1000",
            ],
        );
        let use_of = "of no use with run-command, whose first line of output counts; leave it out";
        check(
            "run-command",
            "[load]\njson = \"/load\"",
            &[&format!("2: load.json: {use_of}")],
        );
        check(
            "http",
            "[load]\njson = \"load\"",
            &[
                "2: load.json: \"load\" is no JSON pointer; write one like \"/load/0\", with ~0 for ~ and ~1 for / in a name",
            ],
        );
        check(
            "http",
            "[load]\njson = \"/~2\"",
            &[
                "2: load.json: \"/~2\" is no JSON pointer; write one like \"/load/0\", with ~0 for ~ and ~1 for / in a name",
            ],
        );
        check(
            "http",
            "[load]\nheader = \"X Load\"",
            &["2: load.header: \"X Load\" is no header's name; write one like \"X-Load\""],
        );
        check(
            "http",
            "[load]\nheader = \"X\"\njson = \"/x\"",
            &["3: load.json: there is a header, too; leave out one of them"],
        );
        check(
            "run-command",
            "[load]\nidle = 2\nfull = 2.0",
            &["3: load.full: no more than idle; write a larger one"],
        );
        let both = "write both, or none if the number is a weight";
        check(
            "run-command",
            "[load]\nidle = 2",
            &[&format!("2: load.idle: of no use without full; {both}")],
        );
        check(
            "run-command",
            "[load]\nfull = 2",
            &[&format!("2: load.full: of no use without idle; {both}")],
        );
        check(
            "run-command",
            "[load]\nidle = -1\nfull = \"x\"",
            &[
                "2: load.idle: -1 is no load; write 0 or more, say 0.5",
                "3: load.full: expected a number, found the string \"x\"; write 0.5, say",
            ],
        );
        check(
            "run-command",
            "[load]\nidle = 0\nfull = 2\nmost = 200",
            &["4: load.most: of no use with idle and full, by which 100 is the most; leave it out"],
        );
    }
}
