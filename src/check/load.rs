//! Dynamic weight: which share of its weight a server is good for, as its answers to a check say. Arithmetic alone:
//! whoever asks the server has the text, and what the share does to a weight is the pool's business.

use hyper::header::HeaderName;
use serde::{Serialize, Serializer};

/// `[service.NAME.monitor.load]`: how an answer becomes a share of the weight. All in percent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Where the answer has it.
    pub from: LoadFrom,
    pub what: LoadKind,
    /// How much of what was so far stays with each new number, 0 to 99.
    pub smoothing: u32,
    /// The most that the share changes by one result.
    pub step: u32,
    /// What the share stays within, 1 to 100 and 100 to 1000; 100 is the list's weight.
    pub least: u32,
    pub most: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadFrom {
    /// `run-command`: the first line of standard output.
    Output,
    /// `http`: this header's value.
    Header(#[serde(serialize_with = "in_words")] HeaderName),
    /// `http`: what this JSON pointer (RFC 6901) points at in the body.
    Json(String),
}

fn in_words<S: Serializer>(name: &HeaderName, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(name)
}

/// What the number is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoadKind {
    /// The share itself.
    Weight,
    /// A load: the share is 100 at or below `idle`, the least at or above `full`, in between in between.
    Load {
        idle: Thousandths,
        full: Thousandths,
    },
}

/// A number that is not negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Thousandths(pub u64);

impl Thousandths {
    const MOST: f64 = 1e12;

    /// `None` if it is negative, larger than a million millions, or no number at all.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "what does not fit is refused before"
    )]
    pub fn new(number: f64) -> Option<Thousandths> {
        let fits = (0.0..=Thousandths::MOST).contains(&number);
        fits.then_some(Thousandths((number * 1000.0).round() as u64))
    }

    fn of_percent(percent: u32) -> Thousandths {
        Thousandths(u64::from(percent) * 1000)
    }

    fn rounded(self) -> u32 {
        u32::try_from((self.0 + 500) / 1000).unwrap_or(u32::MAX)
    }
}

/// Why an answer has no load.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadFault {
    #[error("no load in the answer")]
    Nothing,
    #[error("the load is no number from 0 on: {0}")]
    NoNumber(String),
    #[error("the load is in no JSON: {0}")]
    NoJson(String),
    #[error("no load at {0} of the JSON")]
    NotThere(String),
}

impl Load {
    /// The number in what came from where it should be; `None`: nothing came.
    pub fn read(&self, text: Option<&str>) -> Result<Thousandths, LoadFault> {
        let text = text.ok_or(LoadFault::Nothing)?;
        match &self.from {
            LoadFrom::Output | LoadFrom::Header(_) => number(text),
            LoadFrom::Json(pointer) => {
                let document: serde_json::Value = serde_json::from_str(text)
                    .map_err(|cause| LoadFault::NoJson(cause.to_string()))?;
                let value = document.pointer(pointer);
                let value = value.ok_or_else(|| LoadFault::NotThere(pointer.clone()))?;
                match value.as_str() {
                    Some(text) => number(text),
                    None => number(&value.to_string()),
                }
            }
        }
    }

    /// The share that a number stands for, in thousandths of a percent.
    fn share(&self, Thousandths(number): Thousandths) -> Thousandths {
        let [least, most, whole] = [self.least, self.most, 100].map(Thousandths::of_percent);
        match self.what {
            LoadKind::Weight => Thousandths(number).clamp(least, most),
            LoadKind::Load { idle, full } => {
                let above = u128::from(number.clamp(idle.0, full.0) - idle.0);
                let range = u128::from(full.0 - idle.0).max(1);
                let less = u128::from(whole.0 - least.0) * above / range;
                // No more than there was, as `above` is no more than `range`.
                Thousandths(whole.0 - u64::try_from(less).unwrap_or(0))
            }
        }
    }
}

/// As a program prints one: `0.75`, `70`, `1e3`.
fn number(text: &str) -> Result<Thousandths, LoadFault> {
    let number = text.trim().parse().ok().and_then(Thousandths::new);
    number.ok_or_else(|| {
        let start: String = text.chars().take(QUOTED).collect();
        LoadFault::NoNumber(format!("{start:?}"))
    })
}

/// So many characters of what is no number are told.
const QUOTED: usize = 40;

/// After so many checks in a row without a number the share goes back to 100.
const PATIENCE: u32 = 3;

/// The share of one server by one check, from its answers.
#[derive(Debug, Default)]
pub struct Share {
    smoothed: Option<Thousandths>,
    /// In thousandths of a percent; `None`: no number yet.
    share: Option<Thousandths>,
    without: u32,
    told: Option<u32>,
}

impl Share {
    /// Takes one check's number, `None` if there was none. Gives the share in percent if it is to be told: the first
    /// one, one of the ends, or another by so much that a weight can tell the difference.
    ///
    /// The first number counts at once.
    pub fn take(&mut self, load: &Load, number: Option<Thousandths>) -> Option<u32> {
        let aim = match number {
            Some(number) => self.smooth(load, load.share(number)),
            None if self.without + 1 < PATIENCE => {
                self.without += 1;
                return None;
            }
            None => {
                self.smoothed = None;
                Thousandths::of_percent(100)
            }
        };
        let step = Thousandths::of_percent(load.step);
        let share = match self.share {
            None => aim,
            Some(Thousandths(share)) => Thousandths(
                aim.0
                    .clamp(share.saturating_sub(step.0), share.saturating_add(step.0)),
            ),
        };
        self.share = Some(share);
        self.tell(load, share.rounded())
    }

    /// What it is now, in percent; `None`: nothing is known yet.
    pub fn percent(&self) -> Option<u32> {
        self.share.map(Thousandths::rounded)
    }

    fn smooth(&mut self, load: &Load, new: Thousandths) -> Thousandths {
        self.without = 0;
        let smoothed = match self.smoothed {
            None => new,
            Some(old) => {
                let kept = u64::from(load.smoothing);
                Thousandths((old.0 * kept + new.0 * 100_u64.saturating_sub(kept)) / 100)
            }
        };
        self.smoothed = Some(smoothed);
        smoothed
    }

    fn tell(&mut self, load: &Load, percent: u32) -> Option<u32> {
        let end = [load.least, load.most, 100].contains(&percent);
        let news = match self.told {
            None => true,
            Some(told) if end => told != percent,
            // A tenth of it, but no more than one of PyBal's weights of 10 shows.
            Some(told) => told.abs_diff(percent) >= (told / 10).clamp(1, 5),
        };
        news.then(|| *self.told.insert(percent))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn load(what: LoadKind) -> Load {
        Load {
            from: LoadFrom::Output,
            what,
            smoothing: 0,
            step: 1000,
            least: 10,
            most: 200,
        }
    }

    fn of_load() -> LoadKind {
        LoadKind::Load {
            idle: Thousandths(500),
            full: Thousandths(4500),
        }
    }

    fn read(from: LoadFrom, text: &str) -> Result<u64, String> {
        let load = Load {
            from,
            ..load(LoadKind::Weight)
        };
        let number = load.read(Some(text));
        number.map(|n| n.0).map_err(|fault| fault.to_string())
    }

    #[test]
    fn a_number_in_text() {
        for (text, expected) in [
            ("70", 70_000),
            (" 0.75\n", 750),
            ("1e3", 1_000_000),
            ("0", 0),
        ] {
            assert_eq!(read(LoadFrom::Output, text), Ok(expected));
        }
        for text in ["", "x", "-1", "NaN", "inf", "1e13", "1,5", "0.4 0.3 0.2"] {
            let fault = format!("the load is no number from 0 on: {text:?}");
            assert_eq!(
                read(LoadFrom::Header(HeaderName::from_static("x")), text),
                Err(fault)
            );
        }
        let long = read(LoadFrom::Output, &"x\n".repeat(10_000)).unwrap_err();
        assert!(long.len() < 300 && !long.contains('\n'), "{long}");
        let nothing = load(LoadKind::Weight).read(None);
        assert_eq!(nothing, Err(LoadFault::Nothing));
    }

    #[test]
    fn a_number_in_json() {
        let json = |pointer: &str, text: &str| read(LoadFrom::Json(pointer.into()), text);
        let body = r#"{"load": {"one/min": [0.5, "70"], "a~b": 3}, "": {}}"#;
        assert_eq!(json("/load/one~1min/0", body), Ok(500));
        assert_eq!(json("/load/one~1min/1", body), Ok(70_000));
        assert_eq!(json("/load/a~0b", body), Ok(3000));
        assert_eq!(json("", "12"), Ok(12_000));
        let not_there = "no load at /load/five of the JSON";
        assert_eq!(json("/load/five", body), Err(not_there.into()));
        let object = "the load is no number from 0 on: \"{}\"";
        assert_eq!(json("/", body), Err(object.into()));
        let cut = json("/load", "{\"load\": ").unwrap_err();
        assert!(cut.starts_with("the load is in no JSON: EOF"), "{cut}");
        let deep = json("/0", &"[".repeat(1_000_000)).unwrap_err();
        assert!(
            deep.starts_with("the load is in no JSON: recursion"),
            "{deep}"
        );
    }

    #[test]
    fn from_numbers_to_shares() {
        let share = |what, number| load(what).share(Thousandths(number)).0;
        for (number, expected) in [(70_000, 70_000), (0, 10_000), (300_000, 200_000)] {
            assert_eq!(share(LoadKind::Weight, number), expected);
        }
        for (number, expected) in [
            (0, 100_000),
            (500, 100_000),
            (2500, 55_000),
            (4500, 10_000),
            (u64::MAX, 10_000),
        ] {
            assert_eq!(share(of_load(), number), expected);
        }
    }

    /// Numbers, `-` for none, and what is told after each of them, `.` for nothing.
    fn check(load: &Load, numbers: &str, expected: &str) {
        let mut share = Share::default();
        let told: Vec<String> = numbers
            .split(' ')
            .map(|text| {
                let number = (text != "-").then(|| number(text).expect("a number"));
                let told = share.take(load, number);
                told.map_or_else(|| ".".to_owned(), |percent| percent.to_string())
            })
            .collect();
        assert_eq!(told.join(" "), expected);
    }

    #[test]
    fn steady_numbers_are_told_once() {
        let load = load(LoadKind::Weight);
        check(&load, "70 70 72 68 74 66 70 75 71", "70 . . . . . . 75 .");
        // What is small changes by less.
        check(&load, "20 21 22 24", "20 . 22 24");
        // The ends are told as they are.
        check(&load, "97 98 100 99 100 13 11 10", "97 . 100 . . 13 11 10");
    }

    #[test]
    fn smoothed_and_in_steps() {
        let half = Load {
            smoothing: 50,
            ..load(LoadKind::Weight)
        };
        check(&half, "100 20 20 20 20 20", "100 60 40 30 25 23");
        let steps = Load {
            step: 10,
            ..load(LoadKind::Weight)
        };
        check(&steps, "50 100 100 100 100 100 100", "50 60 70 80 90 100 .");
        check(&steps, "100 0 0 100", "100 90 80 90");
    }

    #[test]
    fn without_numbers_it_goes_back_in_steps() {
        let load = Load {
            step: 30,
            ..load(LoadKind::Weight)
        };
        check(&load, "20 - - - - - -", "20 . . 50 80 100 .");
        check(&load, "20 - - 20 - - -", "20 . . . . . 50");
        // Never one at all: whoever waits for it is told so.
        check(&load, "- - - - 20", ". . 100 . 70");
    }

    proptest! {
        #[test]
        fn within_its_bounds_and_steps(
            smoothing in 0..100_u32,
            step in 1..1000_u32,
            least in 1..=100_u32,
            most in 100..=1000_u32,
            weight in any::<bool>(),
            numbers in prop::collection::vec(prop::option::of(0..2_000_000_u64), 1..50),
        ) {
            let what = if weight { LoadKind::Weight } else { of_load() };
            let load = Load { from: LoadFrom::Output, what, smoothing, step, least, most };
            let mut share = Share::default();
            let mut told = None;
            for number in numbers {
                let before = share.percent();
                told = share.take(&load, number.map(Thousandths)).or(told);
                if let Some(percent) = share.percent() {
                    prop_assert!(least <= percent && percent <= most);
                    prop_assert!(before.is_none_or(|before| before.abs_diff(percent) <= step + 1));
                    // Who was told is never far from what is.
                    prop_assert!(told.is_some_and(|told| told.abs_diff(percent) < 5));
                }
            }
        }
    }
}
